//! From a provider's word to a token: the attempt is claimed (once, on whichever node), the role asked for, the account found or
//! made, the log-in recorded.

use actix_web::HttpRequest;
use chrono::Utc;
use sluse_schema::change::ChangedEntity;
use sluse_schema::id::UserId;
use sluse_schema::permission::{Principal, PrincipalKind};
use sluse_schema::policy::{Action, Resource, decide};
use sluse_schema::port::admin::{Account, AdminError, AuditAction, AuditEvent, ChangedBy};
use sluse_schema::port::{LogInError, Vouched};

use super::attempt::{Attempt, Provider};
use crate::audit::note;
use crate::context::AppState;
use crate::error::ApiError;
use crate::metrics;
use crate::request_id::request_id;

/// Why somebody is not let in.
#[derive(Debug)]
pub enum Refusal {
    /// The provider does not vouch for him, or not to us, or not now, or not for the first time.
    Failed,
    MissingRole,
    Inactive,
    /// Not his fault: the database or the provider is away.
    Later(ApiError),
}

impl Refusal {
    /// The code that the web client shows.
    pub fn code(&self, provider: Provider) -> &'static str {
        match self {
            Self::MissingRole => "MissingRole",
            Self::Inactive => "MESSAGE.USER-INACTIVE",
            Self::Failed | Self::Later(_) => provider.failed(),
        }
    }

    /// The answer when there is nowhere to redirect to.
    pub fn into_answer(self) -> ApiError {
        match self {
            Self::Later(error) => error,
            _ => ApiError::unauthorized(),
        }
    }
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        Self::Later(error.into())
    }
}

impl From<LogInError> for Refusal {
    fn from(error: LogInError) -> Self {
        match error {
            LogInError::Refused(_) => Self::Failed,
            LogInError::Unavailable(_) => Self::Later(ApiError::later(30)),
        }
    }
}

/// Lets in whom the provider vouched for, or says why not; the token.
///
/// # Errors
/// [`Refusal`].
pub async fn admit(
    state: &AppState,
    request: &HttpRequest,
    provider: Provider,
    attempt: &Attempt,
    vouched: Result<Vouched, LogInError>,
) -> Result<String, Refusal> {
    let admitted = try_admit(state, request, attempt, vouched).await;
    let outcome = match &admitted {
        Ok(_) => "accepted",
        Err(Refusal::Later(_)) => "later",
        Err(_) => "refused",
    };
    metrics::log_in(outcome);
    if let Err(refusal) = &admitted {
        let address = state.remote_address(request);
        tracing::warn!(provider = provider.as_str(), ?address, code = refusal.code(provider), "a log-in was refused");
        let by = ChangedBy {
            credential: Some(provider.as_str().to_owned()),
            ..ChangedBy::nobody(address.map(|a| a.to_string()), request_id(request))
        };
        let event = AuditEvent {
            action: AuditAction::LogIn,
            entity: ChangedEntity::User.as_str().to_owned(),
            entity_id: None,
            name: None,
            organizations: Vec::new(),
            failure: Some(refusal.code(provider).to_owned()),
        };
        note(state, &by, address, &event).await;
    }
    admitted
}

async fn try_admit(
    state: &AppState,
    request: &HttpRequest,
    attempt: &Attempt,
    vouched: Result<Vouched, LogInError>,
) -> Result<String, Refusal> {
    let vouched = vouched.inspect_err(|error| tracing::warn!(%error, "a log-in provider's answer was not accepted"))?;
    // After the check, so that only who has a true answer can use an attempt up; before anything that depends on it.
    if !state.admin().claim_attempt(&attempt.id).await? {
        tracing::warn!("an answer of a log-in provider was sent a second time");
        return Err(Refusal::Failed);
    }
    if !vouched.has_role {
        return Err(Refusal::MissingRole);
    }
    let account = find_or_make(state, request, &vouched).await?;
    if !account.is_usable(Utc::now()) {
        return Err(Refusal::Inactive);
    }
    let principal = Principal::new(account.user, vouched.name_id.as_str(), PrincipalKind::User, &account.grants);
    let permit =
        decide(&principal, Action::Write, Resource::Own(account.user)).map_err(|d| Refusal::Later(d.into()))?;
    let by = changed_by(state, request, account.user, PrincipalKind::User);
    state.admin().record_log_in(&permit, &by, account.user, None).await?;
    state.authenticator.issue(&account, Utc::now()).map_err(Refusal::Later)
}

async fn find_or_make(state: &AppState, request: &HttpRequest, vouched: &Vouched) -> Result<Account, Refusal> {
    if let Some(account) = state.admin().account_of_name_id(&vouched.name_id).await? {
        return Ok(account);
    }
    let nobody = Resource::Account { user: UserId(0), organizations: Vec::new(), is_global_admin: false };
    let permit = decide(&Principal::system(), Action::Write, nobody).map_err(|denied| Refusal::Later(denied.into()))?;
    let by = changed_by(state, request, UserId(0), PrincipalKind::System);
    match state.admin().create_vouched_user(&permit, &by, &vouched.name, &vouched.name_id).await {
        Ok(account) => Ok(account),
        // Another of his windows was faster.
        Err(AdminError::Taken(_)) => state.admin().account_of_name_id(&vouched.name_id).await?.ok_or(Refusal::Failed),
        Err(error) => Err(error.into()),
    }
}

/// For the change log.
pub fn changed_by(state: &AppState, request: &HttpRequest, user: UserId, kind: PrincipalKind) -> ChangedBy {
    ChangedBy {
        user,
        kind,
        credential: (kind == PrincipalKind::User).then(|| "log-in provider".to_owned()),
        remote_address: state.remote_address(request).map(|address| address.to_string()),
        request_id: request_id(request),
    }
}
