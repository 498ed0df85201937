//! Log-in by OpenID Connect, as KOMBIT's beside it: out to the provider and back with a code.

use std::sync::Arc;

use actix_web::{HttpRequest, get, web};
use chrono::Utc;
use sluse_schema::port::{LogInError, OidcProvider};
use utoipa_actix_web::service_config::ServiceConfig;

use super::kombit::{answer, query, stranger, throttle, unavailable, with_cookie};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::login::admission;
use crate::login::attempt::Provider;
use crate::login::front_end;

/// Routes, below `/auth`.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(log_in).service(come_back);
}

fn provider(state: &AppState) -> ApiResult<&Arc<dyn OidcProvider>> {
    state.ports.log_in.oidc.as_ref().ok_or_else(|| ApiError::not_configured("OpenID Connect log-in (oidc.issuer)"))
}

/// Sends a browser to the OpenID Connect provider to log in.
#[utoipa::path(
    tag = "auth",
    params(("redirect" = Option<String>, Query, description = "where to go afterwards; at the web client's origin")),
    responses((status = 302)),
)]
#[get("/oidc/login")]
async fn log_in(request: HttpRequest, state: web::Data<AppState>) -> ApiResult {
    let provider = provider(&state)?;
    let attempt = state.attempts.begin(Provider::Oidc, query(&request, "redirect").as_deref(), Utc::now())?;
    throttle(&request, &state, &attempt.id).await?;
    let url = provider.log_in_url(&attempt.as_oidc()).await.map_err(unavailable)?;
    with_cookie(front_end::away(&url), state.attempts.cookie(Provider::Oidc, &attempt)?)
}

/// Redeems the code with which a browser comes back, and sends it on with a token.
#[utoipa::path(
    tag = "auth",
    params(("code" = Option<String>, Query), ("state" = Option<String>, Query), ("error" = Option<String>, Query)),
    responses((status = 302)),
)]
#[get("/oidc/callback")]
async fn come_back(request: HttpRequest, state: web::Data<AppState>) -> ApiResult {
    let provider = provider(&state)?;
    let Some(attempt) = state.attempts.of_request(Provider::Oidc, &request) else {
        return Err(stranger(Provider::Oidc));
    };
    let vouched = match (query(&request, "state"), query(&request, "code"), query(&request, "error")) {
        (Some(state), _, _) if state != attempt.id => refused("the state is another attempt's"),
        (None, _, _) => refused("there is no state"),
        (_, _, Some(error)) => refused(&format!("the provider answered {:?}", sluse_schema::text::cut(&error, 200))),
        (_, Some(code), None) => provider.redeem(&code, &attempt.as_oidc()).await,
        (_, None, None) => refused("there is no code"),
    };
    let admitted = admission::admit(&state, &request, Provider::Oidc, &attempt, vouched).await;
    answer(&state, Provider::Oidc, &attempt, admitted)
}

fn refused<T>(reason: &str) -> Result<T, LogInError> {
    Err(LogInError::Refused(reason.to_owned()))
}
