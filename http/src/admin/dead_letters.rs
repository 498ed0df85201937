//! Dead letters of a target: listed, inspected, offered again, purged. Sluse's own addition, in the reference's conventions.
//!
//! | route | answer |
//! |---|---|
//! | `GET /data-target/:id/dead-letters?limit&offset&sort` | `{data, count}`, newest first unless `sort=asc` |
//! | `GET /data-target/:id/dead-letters/:letterId` | one, with `body`, the receiver's `answer`, `decodeError` |
//! | `POST /data-target/:id/dead-letters/replay` `{ids: []}` or `{all: true}` | 201 `{requested}`: the target's owner takes them up |
//! | `DELETE /data-target/:id/dead-letters/:letterId` | `{affected}` |
//! | `POST /data-target/:id/dead-letters/purge` `{ids: []}` or `{all: true}` | 201 `{affected}` |
//!
//! Reading needs the right to read the target's application, the rest the right to change it. A body or answer that is text stands
//! as text in `body`; else it is base64 and `bodyEncoding` says so. One call handles at most 10 000 letters: repeat it while it
//! finds as many.

use actix_web::{HttpRequest, web};
use actix_web::{delete, get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sluse_schema::id::DeadLetterId;
use sluse_schema::policy::Permit;
use sluse_schema::port::admin::inspect::{DeadLetterLine, Letters, NUM_LETTERS_MAX};
use sluse_schema::port::admin::target::TargetRow;
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::InApplication;
use super::targets::readable;
use super::view;
use crate::authz::{Caller, Reader};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::json::{JsonBody, PathId, created, listed, ok};
use crate::openapi as shape;
use crate::openapi::{Deleted, Listed, targets::DeadLetter};
use crate::page::{PageQuery, Query};
use crate::validate::Form;

type State = web::Data<AppState>;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(list).service(replay).service(purge).service(read).service(delete);
}

fn line(letter: &DeadLetterLine) -> Value {
    json!({
        "id": letter.id,
        "createdAt": view::instant(letter.died_at),
        "updatedAt": view::instant(letter.died_at),
        "iotDevice": {"id": letter.device, "name": letter.device_name},
        "payloadDecoderId": letter.decoder,
        "kind": letter.kind,
        "reason": letter.reason,
        "numAttempts": letter.num_attempts,
        "statusCode": letter.status_code,
        "message": letter.message,
        "receivedAt": view::instant(letter.received_at),
        "offset": letter.offset,
        "bodySize": letter.num_body_bytes,
    })
}

/// Bytes from outside as text, or as base64 where they are none; the second value says which.
fn as_text(bytes: &[u8]) -> (String, &'static str) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), "text"),
        Err(_) => (STANDARD.encode(bytes), "base64"),
    }
}

/// Dead letters of a data target, newest first.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path), PageQuery),
    responses((status = 200, body = Listed<DeadLetter>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/data-target/{id}/dead-letters")]
async fn list(caller: Caller<Reader>, state: State, id: PathId, query: Query) -> ApiResult {
    let target = readable(&caller, state.admin(), id).await?;
    let mut page = query.page()?;
    page.is_descending = query.text("sort").is_none_or(|sort| !sort.eq_ignore_ascii_case("asc"));
    let found = state.admin().dead_letters(target.id, &page).await?;
    Ok(listed(found.rows.iter().map(line).collect(), found.num_all))
}

fn letter_id(request: &HttpRequest) -> ApiResult<DeadLetterId> {
    let text = request.match_info().get("letter").unwrap_or("");
    let id = text.parse().map_err(|_| ApiError::bad_request("Validation failed (numeric string is expected)"))?;
    Ok(DeadLetterId(id))
}

/// One dead letter with its payload and the receiver's answer.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path), ("letter" = i64, Path)),
    responses((status = 200, body = DeadLetter)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/data-target/{id}/dead-letters/{letter}")]
async fn read(caller: Caller<Reader>, state: State, id: PathId, request: HttpRequest) -> ApiResult {
    let target = readable(&caller, state.admin(), id).await?;
    let letter = state.admin().dead_letter(target.id, letter_id(&request)?).await?;
    let (body, body_encoding) = as_text(&letter.body);
    let (answer, answer_encoding) = as_text(&letter.answer);
    let mut shown = line(&letter.line);
    view::extend(
        &mut shown,
        json!({
            "contentType": letter.content_type,
            "decodeError": letter.decode_error,
            "body": body,
            "bodyEncoding": body_encoding,
            "answer": answer,
            "answerEncoding": answer_encoding,
        }),
    );
    Ok(ok(shown))
}

fn writable(caller: &Caller<Reader>, target: &TargetRow) -> ApiResult<Permit> {
    caller.write(target.resource())
}

/// `{ids: […]}` or `{all: true}`; neither is a mistake, not "all".
fn read_letters(body: &Value) -> ApiResult<Letters> {
    let mut form = Form::of(body);
    let ids = form.ids_opt("ids");
    let all = form.boolean_opt("all").unwrap_or(false);
    match &ids {
        Some(ids) if ids.len() > NUM_LETTERS_MAX => {
            let text = format!("ids must contain no more than {NUM_LETTERS_MAX} elements");
            form.fail("ids", "arrayMaxSize", text);
        }
        Some(ids) if ids.is_empty() && !all => form.fail("ids", "arrayNotEmpty", "ids should not be empty"),
        None if !all => form.fail("ids", "isDefined", "either ids or all: true is needed"),
        _ => {}
    }
    form.finish()?;
    Ok(if all { Letters::All } else { Letters::These(ids.unwrap_or_default().into_iter().map(DeadLetterId).collect()) })
}

/// Offers dead letters again.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    request_body = shape::targets::Letters,
    responses((status = 201, body = Value)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/data-target/{id}/dead-letters/replay")]
async fn replay(caller: Caller<Reader>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let target = readable(&caller, state.admin(), id).await?;
    let permit = writable(&caller, &target)?;
    let letters = read_letters(&body.0)?;
    let num_requested =
        state.admin().request_replay(&permit, &caller.changed_by, target.id, &letters).await.map_err(busy)?;
    Ok(created(json!({"requested": num_requested})))
}

/// Too many requests wait for the target's owner: the same may go through in a few seconds.
pub fn busy(error: sluse_schema::port::admin::AdminError) -> ApiError {
    match error {
        sluse_schema::port::admin::AdminError::InUse(_) => ApiError::too_many(10),
        other => other.into(),
    }
}

/// Deletes dead letters for good.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path)),
    request_body = shape::targets::Letters,
    responses((status = 201, body = Deleted)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[post("/data-target/{id}/dead-letters/purge")]
async fn purge(caller: Caller<Reader>, state: State, id: PathId, body: JsonBody) -> ApiResult {
    let target = readable(&caller, state.admin(), id).await?;
    let permit = writable(&caller, &target)?;
    let letters = read_letters(&body.0)?;
    let num_purged = state.admin().purge_dead_letters(&permit, &caller.changed_by, target.id, &letters).await?;
    Ok(created(json!({"affected": num_purged})))
}

/// Deletes one dead letter.
#[utoipa::path(
    tag = "data-target",
    params(("id" = i64, Path), ("letter" = i64, Path)),
    responses((status = 200, body = Deleted)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[delete("/data-target/{id}/dead-letters/{letter}")]
async fn delete(caller: Caller<Reader>, state: State, id: PathId, request: HttpRequest) -> ApiResult {
    let target = readable(&caller, state.admin(), id).await?;
    let permit = writable(&caller, &target)?;
    let letters = Letters::These(vec![letter_id(&request)?]);
    let num_purged = state.admin().purge_dead_letters(&permit, &caller.changed_by, target.id, &letters).await?;
    if num_purged == 0 {
        return Err(ApiError::unknown_id());
    }
    Ok(ok(json!({"affected": num_purged})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_named_or_all_and_an_empty_body_is_neither() {
        assert_eq!(read_letters(&json!({"all": true})).unwrap(), Letters::All);
        let these = Letters::These(vec![DeadLetterId(1), DeadLetterId(2)]);
        assert_eq!(read_letters(&json!({"ids": [2, 1, 2]})).unwrap(), these);
        for bad in [json!({}), json!({"ids": []}), json!({"all": false}), json!({"all": "true"}), json!({"ids": "1"})] {
            assert!(read_letters(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bodies_that_are_no_text_are_base64() {
        assert_eq!(as_text(b"{\"t\":1}"), ("{\"t\":1}".to_owned(), "text"));
        assert_eq!(as_text(&[0xff, 0]), ("/wA=".to_owned(), "base64"));
    }
}
