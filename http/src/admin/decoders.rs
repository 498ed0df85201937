//! Payload decoders: `/payload-decoder`. Every role reads those of every organisation, as in the reference; an organisation's
//! application administrators write them.
//!
//! Besides the reference: `dialect` (`os2iot`, `ts013`, `actility`, `chirpstack3`, `ttn2`; `null` or absent: recognised from the
//! source). A change that does not send it keeps it.

use actix_web::http::StatusCode;
use actix_web::web;
use actix_web::{delete, get, post, put};
use serde_json::{Value, json};
use sluse_schema::device::Dialect;
use sluse_schema::id::{DecoderId, OrganizationId};
use sluse_schema::policy::Resource;
use sluse_schema::port::admin::decoder::{DecoderFields, DecoderRow};
use sluse_schema::port::admin::{AdminError, AdminStore};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::Referred;
use super::view;
use crate::authz::{ApplicationAdmin, Caller, Reader};
use crate::config::PAGE_LIMIT_MAX;
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::{JsonBody, PathId, created, deleted, listed, ok, uncached};
use crate::openapi::{
    Deleted, Listed,
    targets::{Decoder, DecoderDraft},
    tenants::Named,
};
use crate::page::{PageQuery, Query};
use crate::validate::{Form, Rule};

type State = web::Data<AppState>;

/// Longest source of a decoder.
const SOURCE_BYTES_MAX: usize = 512 * 1024;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(list).service(create).service(names).service(read).service(update).service(delete);
}

/// `Decoder` without its organisation.
pub fn decoder(row: &DecoderRow) -> Value {
    let fields = json!({
        "name": row.fields.name,
        "decodingFunction": row.fields.source,
        "dialect": row.fields.dialect.map(Dialect::as_str),
    });
    view::base(row.id.0, &row.stamps, fields)
}

/// `Decoder` with its organisation and who made it.
pub fn decoder_detail(row: &DecoderRow, referred: &Referred) -> Value {
    let mut shown = view::with_authors(decoder(row), &row.stamps);
    shown["organization"] = referred.organization(row.fields.organization);
    shown
}

async fn detail(admin: &dyn AdminStore, row: &DecoderRow) -> ApiResult<Value> {
    Ok(decoder_detail(row, &Referred::load(admin, [], [row.fields.organization]).await?))
}

/// Reads the field `dialect`; what is no dialect is noted.
pub fn read_dialect(form: &mut Form<'_>) -> Option<Dialect> {
    let text = form.one_of_opt("dialect", &Dialect::ALL.map(Dialect::as_str))?;
    Dialect::of_str(&text)
}

fn read_body(body: &Value, stored: Option<&DecoderFields>) -> ApiResult<DecoderFields> {
    let mut form = Form::of(body);
    let name = form.text("name", &[Rule::Min(1), Rule::Max(50)]);
    let encoded = form.text("decodingFunction", &[]);
    // The web client changes a decoder without naming its organisation.
    let organization = match stored {
        Some(stored) if form.get("organizationId").is_none() => stored.organization,
        _ => OrganizationId(form.id("organizationId", None)),
    };
    let dialect = if form.has("dialect") { read_dialect(&mut form) } else { stored.and_then(|stored| stored.dialect) };
    form.finish()?;
    let source: String = serde_json::from_str(&encoded).map_err(|_| ApiError::bad_request(code::BAD_ENCODING))?;
    // PostgreSQL's text refuses NUL, and so does every script.
    if source.contains('\0') {
        return Err(ApiError::bad_request(code::BAD_ENCODING));
    }
    if source.len() > SOURCE_BYTES_MAX {
        return Err(ApiError::bad_request(format!("decodingFunction must be at most {SOURCE_BYTES_MAX} bytes")));
    }
    Ok(DecoderFields { organization, name, source, dialect })
}

fn of_store(error: AdminError) -> ApiError {
    match error {
        AdminError::BadReference(_) => ApiError::bad_request(code::ORGANIZATION_DOES_NOT_EXISTS),
        other => other.into(),
    }
}

/// 400 for an organisation that is not there: a global administrator would be told nothing better by the permit alone.
async fn check_organization(admin: &dyn AdminStore, id: OrganizationId) -> ApiResult<()> {
    let is_there = !admin.organizations_by_id(&[id]).await?.is_empty();
    if is_there { Ok(()) } else { Err(ApiError::bad_request(code::ORGANIZATION_DOES_NOT_EXISTS)) }
}

/// Payload decoders.
#[utoipa::path(
    tag = "payload-decoder",
    params(PageQuery, ("organizationId" = Option<String>, Query)),
    responses((status = 200, body = Listed<Decoder>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/payload-decoder")]
async fn list(caller: Caller<Reader>, state: State, query: Query) -> ApiResult {
    caller.read(Resource::Shared)?;
    query.check_direction()?;
    let organization = query.int("organizationId")?.map(OrganizationId);
    let found = state.admin().decoders(organization, &query.page_or_all()?).await?;
    let referred = Referred::load(state.admin(), [], found.rows.iter().map(|row| row.fields.organization)).await?;
    let rows = found
        .rows
        .iter()
        .map(|row| {
            let mut shown = decoder(row);
            shown["organization"] = referred.organization(row.fields.organization);
            shown
        })
        .collect();
    Ok(listed(rows, found.num_all))
}

/// Ids and names of payload decoders.
#[utoipa::path(
    tag = "payload-decoder",
    responses((status = 200, body = Listed<Named>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/payload-decoder/minimal")]
async fn names(caller: Caller<Reader>, state: State) -> ApiResult {
    caller.read(Resource::Shared)?;
    let found = state.admin().decoder_names(PAGE_LIMIT_MAX).await?;
    let rows = found.rows.into_iter().map(|(id, name)| json!({"id": id, "name": name})).collect();
    Ok(listed(rows, found.num_all))
}

/// One payload decoder with its source.
#[utoipa::path(
    tag = "payload-decoder",
    params(("id" = i64, Path)),
    responses((status = 200, body = Decoder)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/payload-decoder/{id}")]
async fn read(caller: Caller<Reader>, state: State, id: PathId) -> ApiResult {
    caller.read(Resource::Shared)?;
    let row = state.admin().decoder(DecoderId(id.0)).await?;
    Ok(ok(detail(state.admin(), &row).await?))
}

/// Creates a payload decoder.
#[utoipa::path(
    tag = "payload-decoder",
    request_body = DecoderDraft,
    responses((status = 201, body = Decoder)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[post("/payload-decoder")]
async fn create(caller: Caller<ApplicationAdmin>, state: State, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let fields = read_body(&body.0, None)?;
    let permit = caller.write(Resource::Organization(fields.organization))?;
    check_organization(admin, fields.organization).await?;
    let row = admin.create_decoder(&permit, &caller.changed_by, &fields).await.map_err(of_store)?;
    Ok(uncached(created(detail(admin, &row).await?)))
}

/// Changes a payload decoder.
#[utoipa::path(
    tag = "payload-decoder",
    params(("id" = i64, Path)),
    request_body = DecoderDraft,
    responses((status = 200, body = Decoder)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[put("/payload-decoder/{id}")]
async fn update(caller: Caller<ApplicationAdmin>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let admin = state.admin();
    let stored = admin.decoder(DecoderId(id.0)).await?;
    let permit = caller.write(Resource::Organization(stored.fields.organization))?;
    let fields = read_body(&body.0, Some(&stored.fields))?;
    let target_permit = caller.write(Resource::Organization(fields.organization))?;
    check_organization(admin, fields.organization).await?;
    let row = admin
        .update_decoder(&permit, Some(&target_permit), &caller.changed_by, stored.id, &fields)
        .await
        .map_err(of_store)?;
    state.ports.decoder.forget(row.id);
    Ok(uncached(ok(detail(admin, &row).await?)))
}

/// Deletes a payload decoder that no connection uses.
#[utoipa::path(
    tag = "payload-decoder",
    params(("id" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["OrganizationApplicationAdmin"]), ("apiKey" = ["OrganizationApplicationAdmin"])),
)]
#[delete("/payload-decoder/{id}")]
async fn delete(caller: Caller<ApplicationAdmin>, state: State, id: PathId) -> ApiResult {
    let admin = state.admin();
    let gone = || ApiError::bare(StatusCode::NOT_FOUND);
    let stored = match admin.decoder(DecoderId(id.0)).await {
        Err(AdminError::NotFound) => return Err(gone()),
        other => other?,
    };
    // The reference answers with its refusal inside of "not found".
    let permit =
        caller.write(Resource::Organization(stored.fields.organization)).map_err(|_| ApiError::forbidden_inside())?;
    let done = admin.delete_decoder(&permit, &caller.changed_by, stored.id).await?;
    state.ports.decoder.forget(stored.id);
    Ok(deleted(done))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(source: &str, dialect: Option<Value>) -> Value {
        let mut body =
            json!({"name": "D", "organizationId": 1, "decodingFunction": serde_json::to_string(source).unwrap()});
        if let Some(dialect) = dialect {
            body["dialect"] = dialect;
        }
        body
    }

    #[test]
    fn the_source_is_json_text_inside_the_json() {
        let fields = read_body(&body("function decode() { return \"æ\"; }", None), None).unwrap();
        assert_eq!(fields.source, "function decode() { return \"æ\"; }");
        let raw = json!({"name": "D", "organizationId": 1, "decodingFunction": "function decode() {}"});
        assert_eq!(read_body(&raw, None).unwrap_err().body()["message"], code::BAD_ENCODING);
    }

    #[test]
    fn a_dialect_is_one_of_five_null_or_kept() {
        let parse = |dialect, stored: Option<&DecoderFields>| read_body(&body("x", dialect), stored);
        let stored = parse(Some(json!("ts013")), None).unwrap();
        assert_eq!(stored.dialect, Some(Dialect::Ts013));
        assert_eq!(parse(None, Some(&stored)).unwrap().dialect, Some(Dialect::Ts013));
        assert_eq!(parse(Some(json!(null)), Some(&stored)).unwrap().dialect, None);
        assert_eq!(parse(Some(json!("cobol")), None).unwrap_err().status().as_u16(), 400);
        assert_eq!(parse(Some(json!(7)), None).unwrap_err().status().as_u16(), 400);
    }
}
