//! Search (control-plane 2.14): applications, devices and gateways by a part of their name or by a whole identifier.
//!
//! A found device shows that it has an API key, never which: only who has the key can find the device by it.

use actix_web::{get, web};
use serde_json::{Value, json};
use sluse_schema::port::admin::search::{Found, Hit, SearchQuery};
use utoipa_actix_web::service_config::ServiceConfig;

use super::view;
use crate::authz::{Caller, Reader};
use crate::config::PAGE_LIMIT_MAX;
use crate::context::AppState;
use crate::error::{ApiError, ApiResult, code};
use crate::json::listed;
use crate::openapi::{Listed, content};
use crate::page::Query;
use crate::validate::MASK;

/// Longer than any name or identifier.
const TEXT_CHARS_MAX: usize = 256;
/// Nobody pages further; the database would have to sort all of it.
const OFFSET_MAX: i64 = 100_000;

/// Routes of this resource.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(search);
}

/// Applications, devices and gateways with this text in their name, or with this devEUI, Sigfox id, API key or gateway id.
#[utoipa::path(
    tag = "search",
    params(("q" = String, Query), ("limit" = i64, Query), ("offset" = i64, Query)),
    responses((status = 200, body = Listed<content::Found>)),
    security(("token" = ["Read"]), ("apiKey" = ["Read"])),
)]
#[get("/search")]
async fn search(caller: Caller<Reader>, query: Query, state: web::Data<AppState>) -> ApiResult {
    let limit = query.required_int("limit")?.clamp(0, PAGE_LIMIT_MAX);
    let offset = query.required_int("offset")?.clamp(0, OFFSET_MAX);
    if query.num("q") > 1 {
        return Err(ApiError::bad_request("q must be given once"));
    }
    let text = wanted(query.raw("q").unwrap_or_default())?;
    if text.is_empty() {
        return Err(ApiError::bad_request(code::QUERY_MUST_NOT_BE_EMPTY));
    }
    let visible = caller.principal.visible_applications();
    let gateways_of = (!caller.principal.is_global_admin()).then(|| caller.principal.organizations());
    let found = state.admin().search(&SearchQuery { text, visible, gateways_of, limit, offset }).await?;
    Ok(listed(found.rows.iter().map(shown).collect(), found.num_all))
}

/// What is looked for: the client encodes it once more than the query does. Without NUL, which no name can hold.
///
/// # Errors
/// 400 for a `%` that begins no byte, and for bytes that are no text: what JavaScript cannot decode.
fn wanted(raw: &str) -> ApiResult<String> {
    let malformed = || ApiError::bad_request("URI malformed");
    let is_byte = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !raw.split('%').skip(1).all(is_byte) {
        return Err(malformed());
    }
    let decoded = percent_encoding::percent_decode_str(raw.trim()).decode_utf8().map_err(|_| malformed())?;
    // What the query itself could not be decoded to.
    if decoded.contains(char::REPLACEMENT_CHARACTER) {
        return Err(malformed());
    }
    Ok(decoded.trim().chars().filter(|c| *c != '\0').take(TEXT_CHARS_MAX).collect())
}

fn shown(found: &Found) -> Value {
    let common = json!({"name": found.name, "organizationId": found.organization});
    let mut row = view::base(found.id, &found.stamps, common);
    let own = match &found.hit {
        Hit::Application => json!({"type": "Application"}),
        Hit::Device { application, kind, device_eui, sigfox_id, has_api_key } => json!({
            "type": "IoTDevice",
            "deviceType": kind,
            "applicationId": application,
            "deviceEUI": device_eui,
            "deviceId": sigfox_id,
            "apiKey": has_api_key.then_some(MASK),
        }),
        Hit::Gateway { gateway } => json!({"type": "Gateway", "id": gateway, "gatewayId": gateway}),
    };
    view::extend(&mut row, own);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_decoded_trimmed_and_bounded() {
        let wanted = |raw: &str| wanted(raw).map_err(|e| e.status().as_u16());
        assert_eq!(wanted(" Milj%C3%B8 ").as_deref(), Ok("Miljø"));
        for bad in ["100%", "%E6", "%4", "\u{fffd}"] {
            assert_eq!(wanted(bad), Err(400), "{bad}");
        }
        assert_eq!(wanted("%20%00 ").as_deref(), Ok(""));
        assert_eq!(wanted(&"x".repeat(1000)).unwrap().len(), TEXT_CHARS_MAX);
    }
}
