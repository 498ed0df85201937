//! What devices send over HTTP: `POST /receive-data`, and the Sigfox callback as far as it is built.

mod receive_data;
mod sigfox;

pub use receive_data::RECEIVE_DATA_PATH;

use actix_web::web;

/// The hot path: registered before everything else and outside the administrative middleware.
pub fn routes(cfg: &mut web::ServiceConfig) {
    cfg.route(RECEIVE_DATA_PATH, web::post().to(receive_data::receive));
}

/// Below the API's prefix.
pub fn api_routes(cfg: &mut web::ServiceConfig) {
    cfg.route("/sigfox-callback/data/bidir", web::post().to(sigfox::callback));
}
