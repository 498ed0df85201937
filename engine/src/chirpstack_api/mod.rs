//! ChirpStack's gRPC API as the network server (`CHIRPSTACK_API_URL`, `CHIRPSTACK_API_KEY`), in the tenant named `OS2iot` or
//! `chirpstack` (whatever the case), or the only one there is.
//!
//! Decided here: every call has a deadline of [`CALL_TIMEOUT`], its wait for a place included; at most [`NUM_CALLS_MAX`] are under
//! way at once, so that a slow ChirpStack cannot take all of our requests with it; the channel connects when it is first needed
//! and again whenever it broke. Nothing is tried twice here: who calls knows whether that is right.

mod application;
mod connect;
mod convert;
mod device;
mod gateway;
mod metric;
mod multicast;
mod profile;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use chirpstack_api::api::tenant_service_client::TenantServiceClient;
use chirpstack_api::api::{self};
use chrono::NaiveDate;
use sluse_schema::id::{DevEui, GatewayId};
use sluse_schema::port::NetworkServer;
use sluse_schema::port::network_server::{
    Answer, GatewayDay, KnownDevice, KnownGateway, KnownProfile, LinkDay, MulticastQueueItem, NetworkDevice,
    NetworkGateway, NetworkMulticast, NetworkProfile, NetworkServerError, Session,
};
use sluse_schema::secret::Secret;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::metadata::Ascii;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::metrics::CHIRPSTACK_CALL_SECONDS;

pub use connect::ConnectError;

/// Longest time that a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// Calls under way at once, at most.
const NUM_CALLS_MAX: usize = 32;
/// Rows of one page of a list.
const PAGE_ROWS: u32 = 500;
/// Names of the tenant, in lower case.
const TENANT_NAMES: [&str; 2] = ["os2iot", "chirpstack"];

/// Where ChirpStack's API is.
#[derive(Clone, Debug)]
pub struct ChirpstackApiConfig {
    /// `http://host:port`, or `https://` for TLS.
    pub url: String,
    pub key: Secret,
    /// PEM of certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// The client.
#[derive(Debug)]
pub struct ChirpstackApi {
    channel: Channel,
    authorization: MetadataValue<Ascii>,
    places: Semaphore,
    /// Found at the first call that needs it.
    tenant: Mutex<Option<String>>,
    /// One application at a time is made: two requests for the same one would make two.
    making_application: Mutex<()>,
}

impl ChirpstackApi {
    /// Checks the configuration; connects when it is needed.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn new(config: &ChirpstackApiConfig) -> Result<Self, ConnectError> {
        let channel = connect::channel(config)?;
        let mut authorization: MetadataValue<Ascii> =
            format!("Bearer {}", config.key.reveal()).parse().map_err(|_| ConnectError::Key)?;
        authorization.set_sensitive(true);
        Ok(Self {
            channel,
            authorization,
            places: Semaphore::new(NUM_CALLS_MAX),
            tenant: Mutex::default(),
            making_application: Mutex::default(),
        })
    }

    fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Makes one call: waits for a place, adds the key, and ends it at the deadline.
    async fn call<M, R, F>(&self, name: &'static str, message: M, run: impl FnOnce(Request<M>) -> F) -> Answer<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let started_at = Instant::now();
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request.set_timeout(CALL_TIMEOUT);
        let called = async {
            let _place = self.places.acquire().await.map_err(|_| Status::unavailable("stopped"))?;
            run(request).await
        };
        let answer = match timeout_at(started_at + CALL_TIMEOUT, called).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(error_of(&status)),
            Err(_) => Err(NetworkServerError::Unavailable(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
        };
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(NetworkServerError::NotFound) => "not_found",
            Err(NetworkServerError::Unavailable(_)) => "unavailable",
            Err(NetworkServerError::Forbidden(_)) => "forbidden",
            Err(_) => "refused",
        };
        metrics::histogram!(CHIRPSTACK_CALL_SECONDS, "call" => name, "outcome" => outcome)
            .record(started_at.elapsed().as_secs_f64());
        answer
    }

    /// Our tenant's id.
    async fn tenant(&self) -> Answer<String> {
        let mut known = self.tenant.lock().await;
        if let Some(id) = known.as_ref() {
            return Ok(id.clone());
        }
        let mut client = TenantServiceClient::new(self.channel());
        let request = api::ListTenantsRequest { limit: PAGE_ROWS, ..Default::default() };
        let list = self.call("list_tenants", request, |r| async move { client.list(r).await }).await?;
        let named = |name: &str| list.result.iter().find(|t| t.name.to_lowercase() == name);
        let found = TENANT_NAMES.iter().find_map(|name| named(name)).or(match list.result.as_slice() {
            [only] => Some(only),
            _ => None,
        });
        let Some(found) = found else {
            return Err(NetworkServerError::NotPrepared(
                "ChirpStack has no tenant named OS2iot or chirpstack: make one there".to_owned(),
            ));
        };
        *known = Some(found.id.clone());
        Ok(found.id.clone())
    }
}

/// `None` for what is not there.
fn found<T>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(NetworkServerError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is not there need not be deleted.
fn gone<T>(answer: Answer<T>) -> Answer<()> {
    found(answer).map(drop)
}

/// What ChirpStack's status means for us. Its texts hold names and ids of what was asked for, never keys.
fn error_of(status: &Status) -> NetworkServerError {
    let text = || sluse_schema::text::printable(status.message().as_bytes(), 300);
    match status.code() {
        Code::NotFound => NetworkServerError::NotFound,
        Code::AlreadyExists => NetworkServerError::AlreadyExists,
        Code::Unauthenticated | Code::PermissionDenied => NetworkServerError::Forbidden(text()),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::Internal | Code::Unimplemented => {
            NetworkServerError::Refused(text())
        }
        _ => NetworkServerError::Unavailable(text()),
    }
}

#[async_trait]
impl NetworkServer for ChirpstackApi {
    async fn ensure_application(&self, name: &str, tag: (&str, &str)) -> Answer<String> {
        self.application_ensured(name, tag).await
    }
    async fn delete_application(&self, id: &str) -> Answer<()> {
        self.application_deleted(id).await
    }
    async fn device(&self, dev_eui: DevEui) -> Answer<Option<KnownDevice>> {
        self.device_read(dev_eui).await
    }
    async fn create_device(&self, device: &NetworkDevice) -> Answer<()> {
        self.device_created(device).await
    }
    async fn update_device(&self, device: &NetworkDevice) -> Answer<()> {
        self.device_updated(device).await
    }
    async fn delete_device(&self, dev_eui: DevEui) -> Answer<()> {
        self.device_deleted(dev_eui).await
    }
    async fn join_key(&self, dev_eui: DevEui) -> Answer<Option<Secret>> {
        self.join_key_read(dev_eui).await
    }
    async fn set_join_key(&self, dev_eui: DevEui, key: &Secret) -> Answer<()> {
        self.join_key_set(dev_eui, key).await
    }
    async fn session(&self, dev_eui: DevEui) -> Answer<Option<Session>> {
        self.session_read(dev_eui).await
    }
    async fn activate(&self, dev_eui: DevEui, session: &Session) -> Answer<()> {
        self.activated(dev_eui, session).await
    }
    async fn link_days(&self, dev_eui: DevEui, from: NaiveDate) -> Answer<Vec<LinkDay>> {
        self.link_days_read(dev_eui, from).await
    }
    async fn enqueue(&self, dev_eui: DevEui, f_port: u32, is_confirmed: bool, data: &[u8]) -> Answer<String> {
        self.enqueued(dev_eui, f_port, is_confirmed, data).await
    }
    async fn flush_queue(&self, dev_eui: DevEui) -> Answer<()> {
        self.queue_flushed(dev_eui).await
    }
    async fn profiles(&self) -> Answer<Vec<KnownProfile>> {
        self.profiles_read().await
    }
    async fn profile(&self, id: &str) -> Answer<Option<NetworkProfile>> {
        self.profile_read(id).await
    }
    async fn create_profile(&self, profile: &NetworkProfile) -> Answer<String> {
        self.profile_created(profile).await
    }
    async fn update_profile(&self, profile: &NetworkProfile) -> Answer<()> {
        self.profile_updated(profile).await
    }
    async fn delete_profile(&self, id: &str) -> Answer<()> {
        self.profile_deleted(id).await
    }
    async fn adr_algorithms(&self) -> Answer<Vec<(String, String)>> {
        self.adr_algorithms_read().await
    }
    async fn gateways(&self) -> Answer<Vec<KnownGateway>> {
        self.gateways_read().await
    }
    async fn gateway(&self, id: GatewayId) -> Answer<Option<NetworkGateway>> {
        self.gateway_read(id).await
    }
    async fn create_gateway(&self, gateway: &NetworkGateway) -> Answer<()> {
        self.gateway_created(gateway).await
    }
    async fn update_gateway(&self, gateway: &NetworkGateway) -> Answer<()> {
        self.gateway_updated(gateway).await
    }
    async fn delete_gateway(&self, id: GatewayId) -> Answer<()> {
        self.gateway_deleted(id).await
    }
    async fn gateway_days(&self, id: GatewayId, from: NaiveDate) -> Answer<Vec<GatewayDay>> {
        self.gateway_days_read(id, from).await
    }
    async fn create_multicast(&self, group: &NetworkMulticast) -> Answer<String> {
        self.multicast_created(group).await
    }
    async fn update_multicast(&self, id: &str, group: &NetworkMulticast) -> Answer<()> {
        self.multicast_updated(id, group).await
    }
    async fn delete_multicast(&self, id: &str) -> Answer<()> {
        self.multicast_deleted(id).await
    }
    async fn multicast_devices(&self, id: &str, application: &str) -> Answer<Vec<DevEui>> {
        self.multicast_devices_read(id, application).await
    }
    async fn add_to_multicast(&self, id: &str, dev_eui: DevEui) -> Answer<()> {
        self.multicast_entered(id, dev_eui).await
    }
    async fn remove_from_multicast(&self, id: &str, dev_eui: DevEui) -> Answer<()> {
        self.multicast_left(id, dev_eui).await
    }
    async fn enqueue_multicast(&self, id: &str, f_port: u32, data: &[u8]) -> Answer<u32> {
        self.multicast_enqueued(id, f_port, data).await
    }
    async fn flush_multicast(&self, id: &str) -> Answer<()> {
        self.multicast_flushed(id).await
    }
    async fn multicast_queue(&self, id: &str) -> Answer<Vec<MulticastQueueItem>> {
        self.multicast_queue_read(id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, key: &str) -> ChirpstackApiConfig {
        ChirpstackApiConfig { url: url.to_owned(), key: Secret::new(key), ca_file: None }
    }

    #[tokio::test]
    async fn a_wrong_configuration_is_said_at_the_start_without_the_key() {
        for url in ["", "localhost:8080", "ftp://h", "http://"] {
            let error = ChirpstackApi::new(&config(url, "k")).err().unwrap().to_string();
            assert!(error.contains("CHIRPSTACK_API_URL"), "{error}");
        }
        let error = ChirpstackApi::new(&config("http://h:1", "hunter\n2")).err().unwrap().to_string();
        assert!(error.contains("CHIRPSTACK_API_KEY") && !error.contains("hunter"), "{error}");
        let api = ChirpstackApi::new(&config("http://h:1", "hunter2")).unwrap();
        assert!(!format!("{api:?}").contains("hunter2"));
    }

    #[test]
    fn statuses_say_whether_trying_again_can_help() {
        let of = |code| error_of(&Status::new(code, "x")).is_temporary();
        assert!(of(Code::Unavailable) && of(Code::DeadlineExceeded) && of(Code::Unknown) && of(Code::Unauthenticated));
        assert!(!of(Code::InvalidArgument) && !of(Code::AlreadyExists) && !of(Code::NotFound));
    }
}
