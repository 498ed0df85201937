//! Asking to be let into organisations (control-plane 2.3), for whoever logged in through an identity provider and belongs nowhere
//! yet. The organisations' administrators are written a mail first: without it nothing is changed.

use actix_web::{get, put, web};
use serde_json::Value;
use sluse_schema::id::{OrganizationId, UserId};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::{AccessRequest, AdminError, OrganizationRow, UserDetail};
use utoipa_actix_web::service_config::ServiceConfig;

use super::{mails, users, view};
use crate::authz::{Anyone, Caller, TokenOnly};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, ok};
use crate::openapi::access::{AccessRequestDraft, NewKombitUserDraft};
use crate::openapi::tenants;
use crate::page::Query;
use crate::validate::{Form, Rule};

/// Organisations that can be asked for at once.
const NUM_ORGANIZATIONS_MAX: usize = 100;

type Me = Caller<TokenOnly<Anyone>>;

/// Routes.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(create).service(request_more).service(one);
}

fn requested(form: &mut Form<'_>) -> Vec<OrganizationId> {
    let name = "requestedOrganizationIds";
    let ids = form.ids(name);
    if ids.is_empty() {
        form.fail(name, "arrayMinSize", format!("{name} must contain at least 1 elements"));
    }
    if ids.len() > NUM_ORGANIZATIONS_MAX {
        form.fail(name, "arrayMaxSize", format!("{name} must contain no more than {NUM_ORGANIZATIONS_MAX} elements"));
    }
    ids.into_iter().map(OrganizationId).collect()
}

/// The organisations among `ids` that the user neither belongs to nor waits for; all of them have to exist.
async fn new_ones(ids: &[OrganizationId], detail: &UserDetail, state: &AppState) -> ApiResult<Vec<OrganizationRow>> {
    let found = state.admin().organizations_by_id(ids).await?;
    if found.len() != ids.len() {
        return Err(ApiError::bad_request(code::ORGANIZATION_DOES_NOT_EXISTS));
    }
    let is_known = |o: &OrganizationRow| {
        detail.requested_organizations.iter().any(|r| r.id == o.id)
            || detail.permissions.iter().any(|p| p.permission.organization_id == Some(o.id))
    };
    Ok(found.into_iter().filter(|o| !is_known(o)).collect())
}

/// Writes to the administrators, then notes the request.
async fn ask(
    caller: &Me,
    detail: &UserDetail,
    email: Option<String>,
    organizations: &[OrganizationRow],
    state: &AppState,
) -> ApiResult<UserDetail> {
    let own = caller.principal.user;
    let permit = caller.write(Resource::Own(own))?;
    let address = email.as_deref().or(detail.user.email.as_deref());
    for organization in organizations {
        let to = state.admin().addresses_of_admins(organization.id).await?;
        mails::send(state, mails::access_requested(state, to, &detail.user, address, organization)).await?;
    }
    let request = AccessRequest { email, organizations: organizations.iter().map(|o| o.id).collect() };
    state.admin().request_access(&permit, &caller.changed_by, own, &request).await.map_err(|error| match error {
        AdminError::Taken(_) => ApiError::bad_request(code::EMAIL_ALREADY_IN_USE),
        other => other.into(),
    })
}

/// Gives the caller an e-mail address, and asks for him to be let into organisations.
#[utoipa::path(
    tag = "kombitCreation",
    request_body = NewKombitUserDraft,
    responses((status = 200, body = tenants::User)),
    security(("token" = [])),
)]
#[put("/kombitCreation/createNewKombitUser")]
async fn create(caller: Me, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let mut form = Form::of(&body);
    let email = form.checked_text("email", &[Rule::Email, Rule::NotEmpty]);
    let ids = requested(&mut form);
    form.finish()?;
    let detail = state.admin().user(caller.principal.user, false).await?;
    if detail.user.email.is_some() {
        return Err(ApiError::bad_request(code::USER_ALREADY_HAVE_MAIL));
    }
    if state.admin().is_email_taken(&email).await? {
        return Err(ApiError::bad_request(code::EMAIL_ALREADY_IN_USE));
    }
    let organizations = new_ones(&ids, &detail, &state).await?;
    let updated = ask(&caller, &detail, Some(email), &organizations, &state).await?;
    let mut row = view::with_authors(view::user(&updated.user), &updated.user.stamps);
    row["permissions"] = updated.permissions.iter().map(|p| view::permission(&p.permission)).collect();
    row["requestedOrganizations"] = updated.requested_organizations.iter().map(view::organization).collect();
    Ok(ok(row))
}

/// Asks for the caller to be let into further organisations.
#[utoipa::path(
    tag = "kombitCreation",
    request_body = AccessRequestDraft,
    responses((status = 200, body = AccessRequestDraft)),
    security(("token" = [])),
)]
#[put("/kombitCreation/updateUserOrgs")]
async fn request_more(caller: Me, state: web::Data<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let mut form = Form::of(&body);
    let ids = requested(&mut form);
    form.finish()?;
    let detail = state.admin().user(caller.principal.user, false).await?;
    let organizations = new_ones(&ids, &detail, &state).await?;
    if !organizations.is_empty() {
        ask(&caller, &detail, None, &organizations, &state).await?;
    }
    let echoed: Vec<Value> = ids.iter().map(|id| id.0.into()).collect();
    Ok(ok(serde_json::json!({ "requestedOrganizationIds": echoed })))
}

/// The caller himself, with his groups and what he asked for.
#[utoipa::path(
    tag = "kombitCreation",
    params(("id" = i64, Path), ("extendedInfo" = Option<String>, Query)),
    responses((status = 200, body = tenants::UserDetail)),
    security(("token" = [])),
)]
#[get("/kombitCreation/{id}")]
async fn one(caller: Me, id: PathId, query: Query, state: web::Data<AppState>) -> ApiResult {
    if caller.read(Resource::Own(UserId(id.0))).is_err() {
        // Who there is, is no secret: their names are told at log-in.
        let is_there = !state.admin().account_scopes(&[UserId(id.0)]).await?.is_empty();
        return Err(if is_there { ApiError::forbidden() } else { ApiError::unknown_id() });
    }
    users::detail(&caller, UserId(id.0), &query, &state).await
}
