//! What tenants used: of one by the hour or day, of all for the bill; as JSON or CSV.

use std::fmt::Write;

use chatapi_domain::{TenantId, Timestamp};
use chatapi_storage::{Granularity, Usage};
use hyper::header;
use serde::Serialize;
use serde_json::json;

use crate::call::{Call, paged};
use crate::error::ApiError;
use crate::reply::Reply;

/// Periods of one answer: a month of hours, or two years of days.
const MAX_PERIODS: i64 = 745;

/// Tenants read at once for a table.
const STEP: i64 = 100;

#[derive(Serialize)]
struct UsageView {
    tenant_id: TenantId,
    from: Timestamp,
    to: Timestamp,
    requests: i64,
    rate_limited: i64,
    messages_sent: i64,
    message_bytes: i64,
    events_delivered: i64,
    peak_connections: i64,
    active_users: i64,
    webhook_attempts: i64,
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        Self {
            tenant_id: usage.tenant_id,
            from: usage.from,
            to: usage.to,
            requests: usage.requests,
            rate_limited: usage.rate_limited,
            messages_sent: usage.messages_sent,
            message_bytes: usage.message_bytes,
            events_delivered: usage.events_delivered,
            peak_connections: usage.peak_connections,
            active_users: usage.active_users,
            webhook_attempts: usage.webhook_attempts,
        }
    }
}

/// `GET …/usage`: without bounds the last 24 hours, or 30 days.
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let tenant = match &call.caller {
        Some(caller) => caller.tenant.tenant_id,
        None => call.id(0, "Tenant")?,
    };
    let granularity = match call.parameter("granularity").as_deref() {
        None | Some("hour") => Granularity::Hour,
        Some("day") => Granularity::Day,
        Some(_) => return Err(ApiError::invalid("granularity", "expected 'hour' or 'day'")),
    };
    let usual = if granularity == Granularity::Hour { 24 } else { 30 };
    let (from, to) = span(&call, |to| granularity.ceil(to).plus_seconds(-usual * granularity.seconds()))?;
    let seconds = (to.as_micros() - from.as_micros()) / 1_000_000;
    if seconds > MAX_PERIODS * granularity.seconds() {
        return Err(ApiError::invalid("from", format!("expected at most {MAX_PERIODS} periods before to")));
    }
    call.api.store.tenants().get(tenant).await?;
    let usage = call.api.store.usage().list(tenant, from, to, granularity).await?;
    if wants_csv(&call) {
        return Ok(Reply::csv(to_csv(usage)));
    }
    Reply::ok(&json!({ "usage": usage.into_iter().map(UsageView::from).collect::<Vec<_>>() }))
}

/// `GET /admin/usage`: whole days; without bounds this month. As CSV all tenants, as JSON in pages.
pub(crate) async fn totals(call: Call) -> Result<Reply, ApiError> {
    let (from, to) = span(&call, |to| to.month().0)?;
    let (log, after) = (call.api.store.usage(), call.cursor::<TenantId>()?);
    if wants_csv(&call) {
        let (mut all, mut after): (Vec<Usage>, _) = (Vec::new(), after);
        loop {
            let step = log.totals(from, to, after, STEP).await?;
            let Some(last) = step.last() else { return Ok(Reply::csv(to_csv(all))) };
            after = Some(last.tenant_id);
            all.extend(step);
        }
    }
    let limit = call.limit()?;
    let mut usage = log.totals(from, to, after, i64::from(limit) + 1).await?;
    let next_cursor = paged(&mut usage, limit, |usage| usage.tenant_id);
    let usage: Vec<_> = usage.into_iter().map(UsageView::from).collect();
    Reply::ok(&json!({ "usage": usage, "next_cursor": next_cursor }))
}

/// The time that is asked for: `to` is now and `from` as `usual` says, where they are not given.
fn span(call: &Call, usual: impl Fn(Timestamp) -> Timestamp) -> Result<(Timestamp, Timestamp), ApiError> {
    let moment = |name: &str| call.parameter(name).map(|text| Timestamp::parse(name, &text)).transpose();
    let to = moment("to")?.unwrap_or(call.now());
    let from = moment("from")?.unwrap_or_else(|| usual(to));
    if from >= to {
        return Err(ApiError::invalid("from", "expected a time before to"));
    }
    Ok((from, to))
}

fn wants_csv(call: &Call) -> bool {
    let accept = call.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.split(',').any(|kind| kind.trim().starts_with("text/csv")))
}

/// RFC 4180. No value needs quotes: all are ids, times and numbers.
fn to_csv(usage: Vec<Usage>) -> String {
    let mut csv = String::from(
        "tenant_id,from,to,requests,rate_limited,messages_sent,message_bytes,events_delivered,peak_connections,\
         active_users,webhook_attempts\r\n",
    );
    for usage in usage {
        let Usage { tenant_id, from, to, requests, rate_limited, messages_sent, message_bytes, .. } = usage;
        let Usage { events_delivered, peak_connections, active_users, webhook_attempts, .. } = usage;
        let _ = write!(csv, "{tenant_id},{from},{to},{requests},{rate_limited},{messages_sent},{message_bytes},");
        let _ = write!(csv, "{events_delivered},{peak_connections},{active_users},{webhook_attempts}\r\n");
    }
    csv
}
