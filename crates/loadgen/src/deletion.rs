//! The deletion of a large tenant beside another that sends.

use crate::cases::Bench;
use crate::report::{Goal, Runs};

/// Rooms of the tenant that goes, 1000 messages each: enough to last as long as the runs beside it.
const ROOMS: usize = 400;

/// Connections of the tenant that sends.
const CONNECTIONS: usize = 16;

impl Bench {
    pub(crate) async fn deletion(&self, all: &mut Vec<Goal>) -> String {
        self.system.clear().await;
        let (gone, sends) = (self.system.history(70_000, ROOMS).await, self.ours.messages(1000));
        let (mut alone, mut beside) = (Runs::default(), Runs::default());
        for _ in 0..self.runs {
            alone.0.push(self.load(CONNECTIONS, sends.clone()).await);
        }
        self.system.delete(&gone).await;
        for _ in 0..self.runs {
            beside.0.push(self.load(CONNECTIONS, sends.clone()).await);
            assert!(self.system.rooms_left(&gone).await > 0, "it was going on all the time");
        }
        while self.system.rooms_left(&gone).await > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        // Before and after, so that nothing but the deletion differs.
        for _ in 0..self.runs {
            alone.0.push(self.load(CONNECTIONS, sends.clone()).await);
        }
        let ratio = beside.millis(0.99) / alone.millis(0.99);
        all.push(Goal::at_most(
            "p99 of a tenant's sends beside the deletion of another's 400 000 messages, to alone",
            2.0,
            ratio,
        ));
        format!(
            "\n## A tenant that sends over {CONNECTIONS} connections while another is deleted\n\n| | sends/s | p50 | p99 | p99.9 |\n|---|---|---|---|---|\n\
             | alone, before and after | {} |\n| beside the deletion of {ROOMS} 000 messages | {} |\n",
            alone.cells(),
            beside.cells()
        )
    }
}
