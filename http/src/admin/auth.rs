//! Logging in, and who one is. Errors below `/auth` have a form of their own: status, time and path, no reason.

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::{HttpRequest, web};
use actix_web::{get, post};
use chrono::Utc;
use serde_json::{Value, json};
use sluse_schema::change::ChangedEntity;
use sluse_schema::permission::{Principal, PrincipalKind};
use sluse_schema::policy::{Action, Resource, decide};
use sluse_schema::port::admin::{Account, AuditAction, AuditEvent, ChangedBy, OrganizationListing};
use sluse_schema::secret::Secret;
use utoipa_actix_web::scope;
use utoipa_actix_web::service_config::ServiceConfig;

use super::view;
use crate::audit::note;
use crate::authz::{Anyone, Caller, TokenOnly};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, reduce};
use crate::json::{JsonBody, created, ok};
use crate::metrics;
use crate::openapi::{Credentials, Me, Profile, ReducedProblem, Token};
use crate::password::Verdict;
use crate::request_id::request_id;

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(
        scope("/auth")
            .wrap(from_fn(reduce_errors))
            .service(log_in)
            .service(profile)
            .service(me)
            .configure(super::kombit::routes)
            .configure(super::oidc::routes),
    );
}

/// Gives errors their form. What was wrong before a handler was reached (a body that does not parse, no such route) keeps its own.
async fn reduce_errors(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let response = next.call(request).await?;
    let status = response.status();
    let is_from_parser = response
        .response()
        .error()
        .and_then(|error| error.as_error::<ApiError>())
        .is_some_and(ApiError::is_from_parser);
    if status.is_success() || status.is_redirection() || is_from_parser {
        return Ok(response);
    }
    let body = reduce(status, response.request().path()).to_string();
    Ok(response.map_body(|_, _| BoxBody::new(body)))
}

/// Exchanges e-mail and password for a token.
#[utoipa::path(
    tag = "auth",
    request_body = Credentials,
    responses(
        (status = 201, body = Token),
        (status = 401, description = "no such user, or another password", body = ReducedProblem),
        (status = 429, description = "too many; `Retry-After` says when to try again", body = ReducedProblem),
    ),
)]
#[post("/login")]
async fn log_in(request: HttpRequest, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(username), Some(password)) = (text("username"), text("password")) else {
        return Err(ApiError::unauthorized());
    };
    let address = state.remote_address(&request);
    let nobody = ChangedBy::nobody(address.map(|a| a.to_string()), request_id(&request));
    if let Err(wait_s) = state.throttle.attempt(address, &username).await {
        metrics::log_in("throttled");
        note(&state, &nobody, address, &failed_log_in(None, "too many attempts")).await;
        tracing::warn!(?address, "log-ins are throttled, somebody may be guessing passwords");
        return Err(ApiError::too_many(wait_s));
    }
    let (account, rehash) = match check(&state, &username, password).await? {
        Ok(found) => found,
        Err(refused) => {
            metrics::log_in("refused");
            note(&state, &nobody, address, &failed_log_in(refused.account.as_ref(), refused.reason)).await;
            return Err(ApiError::unauthorized());
        }
    };
    let principal = Principal::new(account.user, username, PrincipalKind::User, &account.grants);
    let permit = decide(&principal, Action::Write, Resource::Own(account.user))?;
    let by = ChangedBy {
        user: account.user,
        kind: PrincipalKind::User,
        credential: Some("password".to_owned()),
        remote_address: address.map(|a| a.to_string()),
        request_id: request_id(&request),
    };
    state.admin().record_log_in(&permit, &by, account.user, rehash.as_ref()).await?;
    metrics::log_in("accepted");
    state.throttle.succeeded(address, &principal.name);
    Ok(created(json!({"accessToken": state.authenticator.issue(&account, Utc::now())?})))
}

/// Why somebody was not let in: for the change log, never for him.
struct RefusedLogIn {
    account: Option<Account>,
    reason: &'static str,
}

fn failed_log_in(account: Option<&Account>, reason: &str) -> AuditEvent {
    AuditEvent {
        action: AuditAction::LogIn,
        entity: ChangedEntity::User.as_str().to_owned(),
        entity_id: account.map(|a| a.user.0),
        // What was typed is not kept: it may be a password in the wrong field.
        name: account.map(|a| a.name.clone()),
        organizations: account.into_iter().flat_map(|a| &a.grants).filter_map(|g| g.organization).collect(),
        failure: Some(reason.to_owned()),
    }
}

/// The account, when the password is right and it may be used. A wrong name takes as long as a wrong password.
async fn check(
    state: &AppState,
    username: &str,
    password: String,
) -> ApiResult<Result<(Account, Option<Secret>), RefusedLogIn>> {
    let account = state.admin().account_of_email(username).await?;
    let stored = account.as_ref().and_then(|a| a.password_hash.clone());
    let verdict = state.passwords.verify(password, stored).await.map_err(|error| {
        tracing::error!(%error, "a password could not be checked");
        ApiError::internal()
    })?;
    let Some(account) = account else {
        return Ok(Err(RefusedLogIn { account: None, reason: "there is no such user" }));
    };
    let refused = |account, reason| Ok(Err(RefusedLogIn { account: Some(account), reason }));
    match verdict {
        Verdict::Wrong => refused(account, "the password is wrong"),
        _ if !account.is_usable(Utc::now()) => refused(account, "the user is inactive or expired"),
        Verdict::Right => Ok(Ok((account, None))),
        Verdict::RightRehashed(new) => Ok(Ok((account, Some(new)))),
    }
}

/// Who the token belongs to.
#[utoipa::path(
    tag = "auth",
    responses((status = 200, body = Profile)),
    security(("token" = [])),
)]
#[get("/profile")]
async fn profile(caller: Caller<TokenOnly<Anyone>>) -> ApiResult {
    Ok(ok(json!({"sub": caller.principal.user, "username": caller.principal.name})))
}

/// The caller with his groups, and the organisations he may choose from.
#[utoipa::path(
    tag = "auth",
    responses((status = 200, body = Me)),
    security(("token" = [])),
)]
#[get("/me")]
async fn me(caller: Caller<TokenOnly<Anyone>>, state: web::Data<AppState>) -> ApiResult {
    let detail = state.admin().user(caller.principal.user, false).await?;
    let organizations: Vec<Value> = if caller.principal.is_global_admin() {
        state.admin().organizations_with_groups().await?.iter().map(organization_with_groups).collect()
    } else {
        let mut own: Vec<_> =
            detail.permissions.iter().filter(|p| !p.levels.is_empty()).filter_map(|p| p.organization.clone()).collect();
        own.sort_by_key(|o| o.id);
        own.dedup_by_key(|o| o.id);
        own.iter().map(view::organization).collect()
    };
    let mut user = view::user(&detail.user);
    user["permissions"] = detail.permissions.iter().map(view::permission_with_levels).collect();
    Ok(ok(json!({"user": user, "organizations": organizations})))
}

fn organization_with_groups(listing: &OrganizationListing) -> Value {
    let mut row = view::organization(&listing.organization);
    row["applications"] = listing.applications.iter().map(view::application).collect();
    row["permissions"] = listing.permissions.iter().map(view::permission).collect();
    row
}
