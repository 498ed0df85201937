//! KOMBIT's log-in (SAML 2.0): out to the provider and back, out for good, and our metadata. Paths and answers as the reference's;
//! what a browser keeps meanwhile is in [`crate::login`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use actix_web::{FromRequest, HttpRequest, HttpResponse, get, post, web};
use chrono::Utc;
use sluse_schema::permission::PrincipalKind;
use sluse_schema::policy::{Action, Resource, decide};
use sluse_schema::port::login::OIDC_NAME_ID_PREFIX;
use sluse_schema::port::{LogInError, SamlProvider};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::body;
use crate::config::ADMIN_BODY_BYTES_MAX;
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::json;
use crate::login::admission::{self, Refusal};
use crate::login::attempt::Provider;
use crate::login::front_end;

/// Routes, below `/auth`.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(log_in).service(come_back).service(log_out).service(logged_out).service(metadata);
}

/// One value of the query.
pub(super) fn query(request: &HttpRequest, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(request.query_string().as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn provider(state: &AppState) -> ApiResult<&Arc<dyn SamlProvider>> {
    state.ports.log_in.kombit.as_ref().ok_or_else(|| ApiError::not_configured("KOMBIT log-in (KOMBIT_ENTRYPOINT)"))
}

/// What cannot be sent to the provider is no fault of who wants to log in.
pub(super) fn unavailable(error: LogInError) -> ApiError {
    tracing::error!(%error, "nobody can be sent to the log-in provider");
    ApiError::later(30)
}

/// Counts a beginning by address alone: many may sit behind one, and a beginning guesses at nobody's account.
pub(super) async fn throttle(request: &HttpRequest, state: &AppState, attempt: &str) -> ApiResult<()> {
    state.throttle.attempt(state.remote_address(request), attempt).await.map_err(ApiError::too_many)
}

/// Sends a browser to KOMBIT to log in.
#[utoipa::path(
    tag = "auth",
    params(("redirect" = Option<String>, Query, description = "where to go afterwards; at the web client's origin")),
    responses((status = 302)),
)]
#[get("/kombit/login")]
async fn log_in(request: HttpRequest, state: web::Data<AppState>) -> ApiResult {
    let provider = provider(&state)?;
    let now = Utc::now();
    let attempt = state.attempts.begin(Provider::Kombit, query(&request, "redirect").as_deref(), now)?;
    throttle(&request, &state, &attempt.id).await?;
    let url = provider.log_in_url(&attempt.id, now).map_err(unavailable)?;
    with_cookie(front_end::away(&url), state.attempts.cookie(Provider::Kombit, &attempt)?)
}

pub(super) fn with_cookie(mut response: HttpResponse, cookie: actix_web::cookie::Cookie<'_>) -> ApiResult {
    response.add_cookie(&cookie).map_err(|_| ApiError::internal())?;
    Ok(response)
}

/// Takes KOMBIT's answer from a browser, and sends it on with a token.
#[utoipa::path(
    tag = "auth",
    request_body(content = SamlForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 302)),
)]
#[post("/kombit/login/callback")]
async fn come_back(request: HttpRequest, state: web::Data<AppState>, form: Form) -> ApiResult {
    let provider = provider(&state)?;
    let Some(attempt) = state.attempts.of_request(Provider::Kombit, &request) else {
        return Err(stranger(Provider::Kombit));
    };
    let vouched = match form.value("SAMLResponse") {
        Some(response) => provider.check_response(response, &attempt.id, Utc::now()).await,
        None => Err(LogInError::Refused("there is no SAMLResponse".to_owned())),
    };
    let admitted = admission::admit(&state, &request, Provider::Kombit, &attempt, vouched).await;
    answer(&state, Provider::Kombit, &attempt, admitted)
}

/// Who comes back without having left: another browser, too late, or at another address than `BACKEND_BASEURL`.
pub(super) fn stranger(provider: Provider) -> ApiError {
    crate::metrics::log_in("refused");
    tracing::warn!(
        provider = provider.as_str(),
        "somebody came back from the log-in provider without an attempt of his own: after 15 minutes, or because \
         BACKEND_BASEURL is not the address that browsers use"
    );
    ApiError::unauthorized()
}

/// Sends the browser on, with a token or with a code.
pub(super) fn answer(
    state: &AppState,
    provider: Provider,
    attempt: &crate::login::attempt::Attempt,
    admitted: Result<String, Refusal>,
) -> ApiResult {
    let (destination, is_asked) = state.attempts.destination(attempt);
    let destination = destination.ok_or_else(ApiError::internal)?;
    match admitted {
        Ok(token) => with_cookie(front_end::with_token(&destination, &token), state.attempts.no_cookie(provider)),
        Err(refusal) if is_asked => Ok(front_end::with_error(&destination, refusal.code(provider))),
        Err(refusal) => Err(refusal.into_answer()),
    }
}

/// Ends the session here (every token of this user) and at the provider.
///
/// The web client follows a link, so the token may stand in the query; nowhere else is it taken from there.
#[utoipa::path(
    tag = "auth",
    params(("secret_token" = Option<String>, Query)),
    responses((status = 302)),
    security(("token" = [])),
)]
#[get("/kombit/logout")]
async fn log_out(request: HttpRequest, state: web::Data<AppState>) -> ApiResult {
    let token = query(&request, "secret_token");
    let caller = state.authenticator.authenticate_by(request.headers(), token.as_deref(), state.admin()).await?;
    let (kombit, oidc) = (state.ports.log_in.kombit.as_ref(), state.ports.log_in.oidc.as_ref());
    if oidc.is_none() {
        provider(&state)?;
    }
    let user = caller.principal.user;
    let permit = decide(&caller.principal, Action::Write, Resource::Own(user))?;
    let name_id = state.admin().account_of_user(user).await?.and_then(|account| account.name_id);
    let by = admission::changed_by(&state, &request, user, PrincipalKind::User);
    state.admin().record_log_out(&permit, &by, user).await?;
    state.authenticator.forget_all();
    let front_end_url = state.config.frontend_base_url.as_str();
    let url = match (name_id, kombit, oidc) {
        (Some(name_id), _, Some(oidc)) if name_id.starts_with(OIDC_NAME_ID_PREFIX) => {
            oidc.log_out_url(front_end_url).await.unwrap_or_else(|| front_end_url.to_owned())
        }
        (Some(name_id), Some(kombit), _) => kombit.log_out_url(&name_id, Utc::now()).map_err(unavailable)?,
        _ => front_end_url.to_owned(),
    };
    Ok(front_end::away(&url))
}

/// Where KOMBIT sends a browser after logging out.
#[utoipa::path(
    tag = "auth",
    responses((status = 200)),
)]
#[get("/kombit/logout/callback")]
async fn logged_out(state: web::Data<AppState>) -> ApiResult {
    provider(&state)?;
    Ok(json::text(StatusCode::OK, "Logged out ..."))
}

/// Our SAML metadata.
#[utoipa::path(
    tag = "auth",
    responses((status = 200, content_type = "text/xml")),
)]
#[get("/kombit/metadata")]
async fn metadata(state: web::Data<AppState>) -> ApiResult {
    let metadata = provider(&state)?.metadata();
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, "text/xml; charset=utf-8")).body(metadata))
}

/// What KOMBIT has a browser post.
#[derive(Debug, utoipa::ToSchema)]
#[allow(dead_code, reason = "the shape is documented, the form is read by name")]
pub struct SamlForm {
    /// Base64 of a SAML response.
    #[schema(rename = "SAMLResponse")]
    saml_response: String,
}

/// A form as a browser posts it.
#[derive(Debug)]
struct Form(Vec<(String, String)>);

impl Form {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

impl FromRequest for Form {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let mut payload = payload.take();
        let headers = request.headers().clone();
        Box::pin(async move {
            body::check_head(&headers, ADMIN_BODY_BYTES_MAX)?;
            if !is_form(&headers) {
                return Err(ApiError::unsupported("the body must be application/x-www-form-urlencoded"));
            }
            let bytes = body::read(&headers, &mut payload, ADMIN_BODY_BYTES_MAX).await?;
            Ok(Self(url::form_urlencoded::parse(&bytes).into_owned().collect()))
        })
    }
}
