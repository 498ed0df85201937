//! The live tail: a bounded broadcast that costs nothing while nobody watches. Slow watchers miss lines and are told how many.
//!
//! Where several nodes join their tails, an adapter says what is watched elsewhere ([`TailHub::watched_elsewhere`]), takes the lines
//! for there ([`TailHub::lines_for_others`]; full: dropped) and shows here what others handle ([`TailHub::show_here`]).

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use futures_util::stream::unfold;
use sluse_schema::id::{ApplicationId, DeviceId};
use sluse_schema::port::{LiveTail, TailEvent, TailFilter};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Notify, mpsc};

/// Lines a watcher may be behind before it misses some.
const NUM_LINES_MAX: usize = 1_024;

/// Where device actors publish and watchers listen.
#[derive(Debug)]
pub struct TailHub {
    lines: broadcast::Sender<Arc<TailEvent>>,
    /// Watchers here and filters elsewhere: 0 is the fast way out.
    num_watchers: AtomicUsize,
    filters: Mutex<HashMap<TailFilter, usize>>,
    elsewhere: Mutex<HashSet<TailFilter>>,
    for_others: Mutex<Option<mpsc::Sender<Arc<TailEvent>>>>,
    changed: Notify,
}

impl Default for TailHub {
    fn default() -> Self {
        Self {
            lines: broadcast::channel(NUM_LINES_MAX).0,
            num_watchers: AtomicUsize::new(0),
            filters: Mutex::default(),
            elsewhere: Mutex::default(),
            for_others: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The filters that an event can pass.
fn filters_of(device: DeviceId, application: ApplicationId) -> [TailFilter; 2] {
    [TailFilter::Device(device), TailFilter::Application(application)]
}

impl TailHub {
    /// Whether anybody watches this device or application, here or elsewhere.
    pub fn is_watched(&self, device: DeviceId, application: ApplicationId) -> bool {
        if self.num_watchers.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let wanted = filters_of(device, application);
        let filters = lock(&self.filters);
        wanted.iter().any(|filter| filters.contains_key(filter)) || self.is_watched_elsewhere(wanted)
    }

    fn is_watched_elsewhere(&self, wanted: [TailFilter; 2]) -> bool {
        let elsewhere = lock(&self.elsewhere);
        wanted.iter().any(|filter| elsewhere.contains(filter))
    }

    /// Shows a line to whoever watches.
    pub fn publish(&self, event: TailEvent) {
        let event = Arc::new(event);
        if self.is_watched_elsewhere(filters_of(event.device_id, event.application_id))
            && let Some(others) = &*lock(&self.for_others)
        {
            // Full: that line is not seen elsewhere. A tail is for looking, and nothing waits for it.
            let _ = others.try_send(Arc::clone(&event));
        }
        let _ = self.lines.send(event);
    }

    /// Shows what another node handled to those who watch here.
    pub fn show_here(&self, event: TailEvent) {
        let _ = self.lines.send(Arc::new(event));
    }

    /// Lines that are watched elsewhere, from now on. The last caller gets them.
    pub fn lines_for_others(&self) -> mpsc::Receiver<Arc<TailEvent>> {
        let (sender, receiver) = mpsc::channel(NUM_LINES_MAX);
        *lock(&self.for_others) = Some(sender);
        receiver
    }

    /// Sets what is watched elsewhere.
    pub fn watched_elsewhere(&self, filters: HashSet<TailFilter>) {
        let mut elsewhere = lock(&self.elsewhere);
        let (num_now, num_before) = (filters.len(), elsewhere.len());
        *elsewhere = filters;
        self.num_watchers.fetch_add(num_now, Ordering::Relaxed);
        self.num_watchers.fetch_sub(num_before, Ordering::Relaxed);
    }

    /// What is watched here.
    pub fn watched_here(&self) -> Vec<TailFilter> {
        lock(&self.filters).keys().copied().collect()
    }

    /// Whether anybody watches here.
    pub fn has_watchers_here(&self) -> bool {
        !lock(&self.filters).is_empty()
    }

    /// Completes when somebody began or ended to watch here.
    pub async fn watchers_changed(&self) {
        self.changed.notified().await;
    }

    /// As if somebody had begun to watch.
    pub fn tell_again(&self) {
        self.changed.notify_one();
    }
}

/// Counts a watcher as long as its stream lives.
struct Watching {
    hub: Arc<TailHub>,
    filter: TailFilter,
}

impl Watching {
    fn new(hub: Arc<TailHub>, filter: TailFilter) -> Self {
        *lock(&hub.filters).entry(filter).or_default() += 1;
        hub.num_watchers.fetch_add(1, Ordering::Relaxed);
        hub.changed.notify_one();
        Self { hub, filter }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut filters = lock(&self.hub.filters);
        if let Some(num) = filters.get_mut(&self.filter) {
            *num -= 1;
            if *num == 0 {
                filters.remove(&self.filter);
            }
        }
        self.hub.num_watchers.fetch_sub(1, Ordering::Relaxed);
        self.hub.changed.notify_one();
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

    #[tokio::test]
    async fn others_get_what_they_watch_and_nothing_else() {
        let tail = Tail::default();
        let mut for_others = tail.0.lines_for_others();
        tail.0.watched_elsewhere(HashSet::from([TailFilter::Device(DeviceId(1))]));
        assert!(tail.0.is_watched(DeviceId(1), ApplicationId(1)) && !tail.0.has_watchers_here());
        tail.0.publish(event(2, 1));
        tail.0.publish(event(1, 2));
        assert_eq!(for_others.recv().await.map(|e| e.received_at_ms), Some(2));
        tail.0.watched_elsewhere(HashSet::new());
        assert!(!tail.0.is_watched(DeviceId(1), ApplicationId(1)));
        tail.0.publish(event(1, 3));
        assert!(for_others.try_recv().is_err());
    }
}
