//! What comes and goes with partitions: the session with ChirpStack's broker, devices, targets. Uplinks and deliveries partitions of one
//! number go together.
//!
//! Sources come last and are the first to go. A partition that is revoked is given up in order: what is under way is finished, written
//! and told. One that is lost may be somebody else's already: everything of it is dropped as it is, targets first, since what they would
//! still send, the new owner sends too.

use std::sync::Arc;
use std::time::Duration;

use sluse_actors::partition::DeviceStage;
use sluse_actors::target::TargetStageHandle;
use sluse_schema::port::{Assignment, Log};

use crate::source::SessionOwner;

/// A partition that is taken away is waited for by the whole group.
const SESSION_CLOSES_WITHIN: Duration = Duration::from_secs(2);

/// Those that work on assigned partitions.
#[derive(Debug)]
pub struct Assigned {
    pub session: Option<Arc<SessionOwner>>,
    pub devices: DeviceStage,
    pub targets: TargetStageHandle,
}

impl Assigned {
    /// Follows the log's assignments, for ever.
    pub async fn follow(self, log: Arc<dyn Log>) {
        loop {
            self.apply(log.next_assignment().await).await;
        }
    }

    async fn apply(&self, assignment: Assignment) {
        let Self { session, devices, targets } = self;
        match assignment {
            Assignment::Assigned(partitions) => {
                if targets.assign(&partitions).await.and(devices.assign(&partitions).await).is_err() {
                    tracing::error!(?partitions, "a stage is gone, these partitions are not worked on");
                }
                if let Some(session) = session {
                    session.assigned(&partitions).await;
                }
            }
            Assignment::Revoked { partitions, done } => {
                if let Some(session) = session {
                    session.revoked(&partitions, SESSION_CLOSES_WITHIN).await;
                }
                // Both at once, each within its own deadline: together with the session, below the log's (8.5 s).
                let (devices_done, targets_done) =
                    tokio::join!(devices.revoke(&partitions), targets.revoke(&partitions));
                let is_clean = devices_done & targets_done;
                tracing::info!(?partitions, is_clean, "partitions given up");
                drop(done);
            }
            Assignment::Lost(partitions) => {
                targets.lose(&partitions).await;
                devices.lose(&partitions).await;
                if let Some(session) = session {
                    session.revoked(&partitions, Duration::ZERO).await;
                }
                tracing::warn!(?partitions, "partitions lost, dropped as they were");
            }
        }
    }
}
