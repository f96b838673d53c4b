//! Pages of history as they were answered, for the next who asks for the same.
//!
//! A page is used only if the room is as far as it was then, which every request finds out anew
//! ([`Extent`]): so it is right on every node at once, and whoever may not see the room does not see
//! the page. What it saves is reading and encoding.

use bytes::Bytes;
use chatapi_domain::{HistoryQuery, Order, RoomId, TenantId};
use chatapi_storage::Extent;

/// Bytes of pages that are kept; those used least go first.
const MAX_BYTES: u64 = 32 << 20;

/// A larger page is not kept: it would push out many.
const MAX_PAGE: usize = 256 << 10;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    pub(crate) tenant_id: TenantId,
    /// That of [`Verifier::epoch`](chatapi_auth::Verifier::epoch): a tenant that was deleted and imported
    /// again has other messages under the same numbers.
    pub(crate) epoch: u64,
    pub(crate) room_id: RoomId,
    pub(crate) query: HistoryQuery,
}

/// A page as it was answered.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) body: Bytes,
    extent: Extent,
    /// Whether the room's next message would be on it.
    open: bool,
}

impl Page {
    /// Whether it is what would be read now.
    pub(crate) fn is_right(&self, now: Extent) -> bool {
        let unchanged = self.extent.last_change == now.last_change && self.extent.first_seq == now.first_seq;
        unchanged && (!self.open || self.extent.last_seq == now.last_seq)
    }
}

/// The pages of all tenants.
#[derive(Debug)]
pub(crate) struct Pages(moka::sync::Cache<PageKey, Page>);

impl Pages {
    pub(crate) fn new() -> Self {
        // What the key and the bookkeeping take beside the body.
        let weigh = |_: &PageKey, page: &Page| u32::try_from(page.body.len() + 256).unwrap_or(u32::MAX);
        Self(moka::sync::Cache::builder().weigher(weigh).max_capacity(MAX_BYTES).build())
    }

    pub(crate) fn get(&self, key: &PageKey) -> Option<Page> {
        self.0.get(key)
    }

    /// Keeps a page that was read when the room was as far as `extent`.
    pub(crate) fn keep(&self, key: PageKey, body: Bytes, extent: Extent, has_more: bool) {
        if body.len() <= MAX_PAGE {
            let open = is_open(&key.query, extent, has_more);
            self.0.insert(key, Page { body, extent, open });
        }
    }
}

/// Whether the next message of a room that is as far as `extent` would be on the page.
fn is_open(query: &HistoryQuery, extent: Extent, has_more: bool) -> bool {
    let ends_before = query.before_seq.is_some_and(|before| before <= extent.last_seq + 1);
    let filled = query.order == Order::Ascending && has_more;
    !ends_before && !filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(first_seq: i64, last_seq: i64, last_change: i64) -> Extent {
        Extent { first_seq, last_seq, last_change }
    }

    fn query(order: Order, before_seq: Option<i64>) -> HistoryQuery {
        HistoryQuery { after_seq: None, before_seq, order, limit: 50 }
    }

    #[test]
    fn a_page_is_right_until_something_that_is_on_it_changes() {
        let page = |open| Page { body: Bytes::new(), extent: extent(1, 9, 3), open };

        assert!(page(true).is_right(extent(1, 9, 3)) && page(false).is_right(extent(1, 9, 3)));
        assert!(!page(true).is_right(extent(1, 10, 3)) && page(false).is_right(extent(1, 10, 3)));
        assert!(!page(false).is_right(extent(1, 9, 4)), "an edit");
        assert!(!page(false).is_right(extent(2, 9, 3)), "what is too old has gone");
    }

    #[test]
    fn the_next_message_is_on_a_page_that_is_not_full_and_not_bounded() {
        let now = extent(1, 9, 0);
        let open = |query, has_more| is_open(&query, now, has_more);

        assert!(open(query(Order::Ascending, None), false) && open(query(Order::Descending, None), true));
        assert!(!open(query(Order::Ascending, None), true), "full");
        assert!(open(query(Order::Descending, Some(11)), true), "message 10 would be on it");
        assert!(!open(query(Order::Descending, Some(10)), true) && !open(query(Order::Ascending, Some(4)), false));
    }
}
