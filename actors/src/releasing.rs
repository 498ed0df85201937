//! Partitions that are being given up. The group may take a partition back while the node that stops gives it up anyway: whoever asks second
//! waits for the first to be done, since it says on return that nothing more is written for the partition.

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use sluse_schema::partition::PartitionId;

use crate::table::HashMap;

/// How the giving up of one partition ends: `true` when nothing was left unfinished.
pub(crate) type Released = Shared<LocalBoxFuture<'static, bool>>;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Releasing(HashMap<PartitionId, Released>);

impl Releasing {
    /// Notes that a partition is being given up. Whoever asked for it has to wait for what this returns: that is what moves it on.
    pub(crate) fn begin(&mut self, partition: PartitionId, release: impl Future<Output = bool> + 'static) -> Released {
        let released = release.boxed_local().shared();
        self.0.insert(partition, released.clone());
        released
    }

    /// Those that are being given up now, of all or of these.
    pub(crate) fn under_way(&mut self, partitions: Option<&[PartitionId]>) -> Vec<Released> {
        self.0.retain(|_, released| released.peek().is_none());
        let is_asked = |partition| partitions.is_none_or(|asked| asked.contains(partition));
        self.0.iter().filter(|(partition, _)| is_asked(partition)).map(|(_, released)| released.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    const P0: PartitionId = PartitionId(0);
    const P1: PartitionId = PartitionId(1);

    #[actix_rt::test]
    async fn who_asks_second_waits_for_the_first_and_hears_the_same_and_what_is_done_is_forgotten() {
        let mut releasing = Releasing::default();
        let (done, is_done) = oneshot::channel();
        let first = releasing.begin(P0, async move { is_done.await.unwrap() });
        assert!(releasing.under_way(Some(&[P1])).is_empty());
        let second = releasing.under_way(Some(&[P0, P1]));
        assert_eq!((second.len(), releasing.under_way(None).len()), (1, 1));
        assert!(second[0].clone().now_or_never().is_none(), "the first is not done");
        done.send(false).unwrap();
        assert!(!first.await);
        assert!(!second[0].clone().await);
        assert!(releasing.under_way(None).is_empty());
    }
}
