//! A ChirpStack of the test's own: its gRPC API over a real connection, in memory, as far as Sluse calls it. It behaves as the real
//! one was seen to (4.20): what is taken twice is refused, a gateway's update needs a priority, a device has to have its application
//! and profile.

mod refused;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use chirpstack_api::api;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::codegen::tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

pub const KEY: &str = "a key made in ChirpStack";
pub const TENANT: &str = "52f14cd4-c6f1-4fbd-8f87-4025e1d49242";

/// A multicast group with its devices and its queue.
#[derive(Debug, Default)]
pub struct Group {
    pub group: api::MulticastGroup,
    pub devices: BTreeSet<String>,
    pub queue: Vec<api::MulticastGroupQueueItem>,
}

/// What ChirpStack holds.
#[derive(Debug, Default)]
pub struct World {
    /// Every call is answered with "unavailable".
    pub is_away: bool,
    /// These calls are refused, as `Service/call`.
    pub refused: BTreeSet<&'static str>,
    pub applications: BTreeMap<String, api::Application>,
    pub profiles: BTreeMap<String, api::DeviceProfile>,
    pub devices: BTreeMap<String, api::Device>,
    pub statuses: BTreeMap<String, api::DeviceStatus>,
    pub keys: BTreeMap<String, api::DeviceKeys>,
    pub sessions: BTreeMap<String, api::DeviceActivation>,
    pub queues: BTreeMap<String, Vec<api::DeviceQueueItem>>,
    pub gateways: BTreeMap<String, api::Gateway>,
    pub groups: BTreeMap<String, Group>,
    /// Every call, as `Service/call`, in order.
    pub calls: Vec<String>,
}

/// The server; it ends when it is dropped.
#[derive(Debug)]
pub struct FakeChirpstack {
    pub addr: SocketAddr,
    world: Arc<Mutex<World>>,
    task: JoinHandle<()>,
}

impl Drop for FakeChirpstack {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeChirpstack {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let world = Arc::<Mutex<World>>::default();
        let services = services::router(Service { world: Arc::clone(&world) });
        let task = tokio::spawn(async move {
            services.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { addr, world, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a call was made.
    pub fn num_calls(&self, name: &str) -> usize {
        self.world().calls.iter().filter(|call| *call == name).count()
    }
}

/// All services over one world.
#[derive(Clone)]
pub struct Service {
    world: Arc<Mutex<World>>,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

impl Service {
    fn answer<M, R: Send + 'static>(
        &self,
        name: String,
        request: Request<M>,
        act: impl FnOnce(&mut World, M) -> Result<R, Status>,
    ) -> Answer<R> {
        let key = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
        let is_known = key == Some(&format!("Bearer {KEY}"));
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = if world.is_away {
            Err(Status::unavailable("on purpose"))
        } else if !is_known {
            Err(Status::unauthenticated("authentication failed: invalid key"))
        } else if world.refused.contains(name.as_str()) {
            Err(Status::invalid_argument("on purpose"))
        } else {
            world.calls.push(name);
            act(&mut world, request.into_inner())
        };
        Box::pin(std::future::ready(answer.map(Response::new)))
    }
}

/// Implements calls of a service: name, message, answer, and what happens in the world.
macro_rules! calls {
    ($service:literal; $($name:ident($message:ty) -> $answer:ty = $act:expr;)*) => {
        $(fn $name<'life0, 'async_trait>(
            &'life0 self,
            request: tonic::Request<$message>,
        ) -> std::pin::Pin<
            Box<dyn std::future::Future<Output = Result<tonic::Response<$answer>, tonic::Status>> + Send + 'async_trait>,
        >
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            self.answer(format!("{}/{}", $service, stringify!($name)), request, $act)
        })*
    };
}
use calls;
