//! What people are told when the network server does not do what it was asked. Details go to the log: they may name addresses.

use actix_web::http::StatusCode;
use serde_json::json;
use sluse_schema::port::network_server::NetworkServerError;

use crate::error::{ApiError, code};

/// After how long it is worth trying again, seconds.
const RETRY_AFTER_S: u64 = 15;
const AWAY: &str = "The network server (ChirpStack) does not answer, try again later";
const FORBIDDEN: &str = "The network server (ChirpStack) refuses the API key of this server";
/// What is said where nothing can be done without a network server.
pub const NOT_CONFIGURED: &str = "No network server (ChirpStack) is configured";

/// 400: there is no network server.
pub fn not_configured() -> ApiError {
    ApiError::bad_request(NOT_CONFIGURED)
}

fn text_of(error: &NetworkServerError) -> String {
    match error {
        NetworkServerError::Unavailable(_) => AWAY.to_owned(),
        NetworkServerError::Forbidden(_) => FORBIDDEN.to_owned(),
        NetworkServerError::NotPrepared(text) => text.clone(),
        NetworkServerError::NotFound => code::ID_DOES_NOT_EXIST.to_owned(),
        NetworkServerError::AlreadyExists => code::ID_INVALID_OR_ALREADY_IN_USE.to_owned(),
        NetworkServerError::Refused(_) => code::FAILED_TO_CREATE_OR_UPDATE_IOT_DEVICE.to_owned(),
    }
}

fn log(error: &NetworkServerError) {
    if error.is_temporary() {
        tracing::warn!(%error, "chirpstack could not be asked");
    } else {
        tracing::info!(%error, "chirpstack refused a request");
    }
}

/// The error in the usual envelope: 503 for what may go through later, 404 and 400 for the rest.
pub fn refusal(error: NetworkServerError) -> ApiError {
    log(&error);
    match &error {
        temporary if temporary.is_temporary() => ApiError::later_because(RETRY_AFTER_S, text_of(temporary)),
        NetworkServerError::NotFound => ApiError::unknown_id(),
        NetworkServerError::Refused(_) => ApiError::bare(StatusCode::BAD_REQUEST),
        other => ApiError::bad_request(text_of(other)),
    }
}

/// The error about one device: `{"message": …}` alone, so that a batch says it beside the device.
pub fn device_refusal(error: NetworkServerError) -> ApiError {
    log(&error);
    let status = if error.is_temporary() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
    ApiError::raw(status, json!({"message": text_of(&error)}))
}
