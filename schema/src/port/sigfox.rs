//! Sigfox's REST API (version 2), as far as administration calls it. JSON of Sigfox's own is handed through as it came.

use std::fmt::Debug;

use async_trait::async_trait;
use serde_json::Value;

use crate::secret::Secret;

/// An API user of Sigfox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigfoxLogin {
    pub username: String,
    pub password: Secret,
}

/// Why Sigfox did not do what it was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SigfoxError {
    /// 401.
    #[error("Sigfox does not accept the login")]
    BadLogin,
    /// 400, with what Sigfox says is wrong.
    #[error("Sigfox refuses the request: {0}")]
    Refused(Value),
    /// 403 or 404: nothing that this login may see.
    #[error("Sigfox does not know it, or not for this login")]
    NotFound,
    /// 429.
    #[error("Sigfox takes no more requests for now")]
    TooMany,
    /// No answer, one that is no JSON, or a fault of its own.
    #[error("Sigfox cannot be asked: {0}")]
    Unavailable(String),
}

/// Where Sigfox sends what devices of a type transmit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigfoxCallback {
    /// Callbacks whose URL begins with it are ours.
    pub base_url: String,
    /// May hold Sigfox's own placeholders, like `{deviceTypeId}`.
    pub url: String,
    /// The body, with placeholders.
    pub body_template: String,
}

/// Calls Sigfox. Every call is bounded in time; what is read may be some seconds old.
#[async_trait]
pub trait SigfoxApi: Debug + Send + Sync + 'static {
    /// Whether Sigfox accepts the login: it sees at least one API user.
    async fn accepts(&self, login: &SigfoxLogin) -> Result<bool, SigfoxError>;

    /// The first group that the login belongs to, as Sigfox describes it.
    async fn group(&self, login: &SigfoxLogin) -> Result<Option<Value>, SigfoxError>;

    /// Contracts.
    async fn contracts(&self, login: &SigfoxLogin) -> Result<Vec<Value>, SigfoxError>;

    /// Devices of a group.
    async fn devices(&self, login: &SigfoxLogin, group: &str) -> Result<Vec<Value>, SigfoxError>;

    /// One device.
    async fn device(&self, login: &SigfoxLogin, id: &str) -> Result<Value, SigfoxError>;

    /// Registers a device; answers its id.
    async fn create_device(&self, login: &SigfoxLogin, device: &Value) -> Result<String, SigfoxError>;

    /// Changes a device.
    async fn update_device(&self, login: &SigfoxLogin, id: &str, changes: &Value) -> Result<(), SigfoxError>;

    /// Puts a device under another type.
    async fn change_device_type(&self, login: &SigfoxLogin, id: &str, device_type: &str) -> Result<(), SigfoxError>;

    /// Device types of a group: the whole answer.
    async fn device_types(&self, login: &SigfoxLogin, group: &str) -> Result<Value, SigfoxError>;

    /// One device type.
    async fn device_type(&self, login: &SigfoxLogin, id: &str) -> Result<Value, SigfoxError>;

    /// Makes a device type; answers its id.
    async fn create_device_type(&self, login: &SigfoxLogin, draft: &Value) -> Result<String, SigfoxError>;

    /// Changes a device type.
    async fn update_device_type(&self, login: &SigfoxLogin, id: &str, draft: &Value) -> Result<(), SigfoxError>;

    /// Makes sure that a device type has the callback, and that downlinks are asked for through it.
    async fn set_callback(
        &self,
        login: &SigfoxLogin,
        device_type: &str,
        callback: &SigfoxCallback,
    ) -> Result<(), SigfoxError>;
}
