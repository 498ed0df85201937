//! What devices send over HTTP: `POST /receive-data`, and the Sigfox callback as far as it is built.

mod receive_data;
mod sigfox;

pub use receive_data::RECEIVE_DATA_PATH;

use utoipa_actix_web::service_config::ServiceConfig;

/// The hot path: registered before everything else and outside the administrative middleware.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(receive_data::receive);
}

/// Below the API's prefix.
pub fn api_routes(cfg: &mut ServiceConfig<'_>) {
    cfg.service(sigfox::callback);
}
