//! The live tail: a bounded broadcast that costs nothing while nobody watches. Slow watchers miss lines and are told how many.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::Stream;
use futures_util::stream::unfold;
use sluse_schema::id::{ApplicationId, DeviceId};
use sluse_schema::port::{LiveTail, TailEvent, TailFilter};
use tokio::sync::broadcast::{self, error::RecvError};

/// Lines a watcher may be behind before it misses some.
const NUM_LINES_MAX: usize = 1_024;

/// Where device actors publish and watchers listen.
#[derive(Debug)]
pub struct TailHub {
    lines: broadcast::Sender<Arc<TailEvent>>,
    num_watchers: AtomicUsize,
    filters: Arc<Mutex<HashMap<TailFilter, usize>>>,
}

impl Default for TailHub {
    fn default() -> Self {
        Self { lines: broadcast::channel(NUM_LINES_MAX).0, num_watchers: AtomicUsize::new(0), filters: Arc::default() }
    }
}

impl TailHub {
    /// Whether anybody watches this device or application.
    pub fn is_watched(&self, device: DeviceId, application: ApplicationId) -> bool {
        if self.num_watchers.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        filters.contains_key(&TailFilter::Device(device)) || filters.contains_key(&TailFilter::Application(application))
    }

    /// Shows a line to whoever watches.
    pub fn publish(&self, event: TailEvent) {
        let _ = self.lines.send(Arc::new(event));
    }
}

/// Counts a watcher as long as its stream lives.
struct Watching {
    hub: Arc<TailHub>,
    filter: TailFilter,
}

impl Watching {
    fn new(hub: Arc<TailHub>, filter: TailFilter) -> Self {
        *hub.filters.lock().unwrap_or_else(PoisonError::into_inner).entry(filter).or_default() += 1;
        hub.num_watchers.fetch_add(1, Ordering::Relaxed);
        Self { hub, filter }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut filters = self.hub.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(num) = filters.get_mut(&self.filter) {
            *num -= 1;
            if *num == 0 {
                filters.remove(&self.filter);
            }
        }
        self.hub.num_watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The port, as a handle that streams can keep.
#[derive(Clone, Debug, Default)]
pub struct Tail(pub Arc<TailHub>);

impl LiveTail for Tail {
    fn watch(&self, filter: TailFilter) -> Pin<Box<dyn Stream<Item = TailEvent> + Send>> {
        let watching = Watching::new(Arc::clone(&self.0), filter);
        let lines = self.0.lines.subscribe();
        Box::pin(unfold((watching, lines, 0u64), move |(watching, mut lines, mut num_missed)| async move {
            loop {
                match lines.recv().await {
                    Ok(event) if passes(filter, &event) => {
                        let line = TailEvent { num_missed, ..TailEvent::clone(&event) };
                        return Some((line, (watching, lines, 0)));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(num)) => num_missed += num,
                    Err(RecvError::Closed) => return None,
                }
            }
        }))
    }
}

fn passes(filter: TailFilter, event: &TailEvent) -> bool {
    match filter {
        TailFilter::Device(device) => event.device_id == device,
        TailFilter::Application(application) => event.application_id == application,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use sluse_schema::id::OrganizationId;

    fn event(device: i64, received_at_ms: i64) -> TailEvent {
        TailEvent {
            device_id: DeviceId(device),
            application_id: ApplicationId(1),
            organization: OrganizationId(1),
            device_name: "x".into(),
            event: "up".into(),
            received_at_ms,
            payload: None,
            decoded: Vec::new(),
            num_missed: 0,
        }
    }

    #[tokio::test]
    async fn a_watcher_sees_its_device_alone_and_learns_what_it_missed() {
        let tail = Tail::default();
        assert!(!tail.0.is_watched(DeviceId(1), ApplicationId(1)));
        let mut lines = tail.watch(TailFilter::Device(DeviceId(1)));
        assert!(tail.0.is_watched(DeviceId(1), ApplicationId(9)));
        assert!(!tail.0.is_watched(DeviceId(2), ApplicationId(1)));
        tail.0.publish(event(2, 1));
        tail.0.publish(event(1, 2));
        assert_eq!(lines.next().await.map(|l| l.received_at_ms), Some(2));
        for i in 0..(NUM_LINES_MAX as i64 + 10) {
            tail.0.publish(event(1, i));
        }
        assert_eq!(lines.next().await.map(|l| l.num_missed), Some(10));
        drop(lines);
        assert!(!tail.0.is_watched(DeviceId(1), ApplicationId(1)));
    }
}
