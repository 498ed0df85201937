//! A change of rights on another node reaches the API's cache of callers through the change feed, within a second.

use std::sync::Arc;

use async_trait::async_trait;
use sluse_actors::reload::reloader::Subscriber;
use sluse_schema::change::{ChangeEvent, ChangedEntity};
use sluse_schema::port::CallersEpoch;

/// Raises the callers' epoch when somebody's rights may have changed.
#[derive(Debug)]
pub struct CallersSubscriber(pub Arc<CallersEpoch>);

/// Whether a change of such a row can change what a caller may do.
fn concerns_callers(entity: ChangedEntity) -> bool {
    matches!(
        entity,
        ChangedEntity::Organization
            | ChangedEntity::Application
            | ChangedEntity::Permission
            | ChangedEntity::User
            | ChangedEntity::ApiKey
    )
}

#[async_trait]
impl Subscriber for CallersSubscriber {
    async fn changed(&self, changes: Arc<[ChangeEvent]>) {
        if changes.iter().any(|change| concerns_callers(change.entity)) {
            self.0.raise();
        }
    }

    async fn reload_all(&self) {
        self.0.raise();
    }
}
