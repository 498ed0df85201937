//! Senders that were heard but are not registered. Sluse's own addition: `GET /unknown-devices`, `{data, count}`, last heard first.
//!
//! Nobody owns an unknown sender, and whoever registers its devEUI gets what it sends. So the list is for global administrators.

use actix_web::get;
use actix_web::web;
use serde_json::{Value, json};
use sluse_schema::policy::Resource;
use utoipa_actix_web::service_config::ServiceConfig;

use super::view;
use crate::authz::{Caller, GlobalAdmin};
use crate::context::AppState;
use crate::error::ApiResult;
use crate::json::listed;
use crate::openapi::Listed;
use crate::page::{PageQuery, Query};

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(list);
}

/// Senders that were heard but are not registered, newest first.
#[utoipa::path(
    tag = "iot-device",
    params(PageQuery),
    responses((status = 200, body = Listed<Value>)),
    security(("token" = ["GlobalAdmin"]), ("apiKey" = ["GlobalAdmin"])),
)]
#[get("/unknown-devices")]
async fn list(caller: Caller<GlobalAdmin>, state: web::Data<AppState>, query: Query) -> ApiResult {
    caller.read(Resource::Platform)?;
    let found = state.admin().unknown_senders(&query.page()?).await?;
    let rows = found
        .rows
        .iter()
        .map(|sender| {
            json!({
                "source": sender.source,
                "sender": sender.sender,
                "numHeard": sender.num_heard,
                "firstHeardAt": view::instant(sender.first_heard_at),
                "lastHeardAt": view::instant(sender.last_heard_at),
            })
        })
        .collect();
    Ok(listed(rows, found.num_all))
}
