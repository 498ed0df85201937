//! The administrative API, one module per resource. To add one: write its module with a `routes` function and name it here
//! (`crate::openapi` says how a route is written).

mod access;
mod api_keys;
mod application_shape;
mod applications;
mod auth;
mod connections;
mod dead_letters;
mod decoder_errors;
mod decoders;
mod device_batch;
mod device_csv;
mod device_input;
mod device_models;
mod device_profiles;
mod device_remote;
pub(crate) mod device_shape;
mod devices;
mod downlinks;
mod gateway_input;
mod gateway_status;
mod gateways;
mod kombit;
mod kombit_creation;
pub mod live_tail;
mod logs;
mod lorawan_devices;
mod mails;
mod mask;
mod multicasts;
mod oidc;
pub mod open_data;
mod organizations;
mod permissions;
mod search;
mod sigfox;
mod sigfox_downlink;
mod target_input;
mod target_state;
mod target_test;
mod targets;
pub mod test_decoder;
mod unknown_devices;
mod users;
pub mod view;
mod waiting_users;

use utoipa_actix_web::service_config::ServiceConfig;

/// Every administrative route below the API's prefix.
pub fn routes(cfg: &mut ServiceConfig<'_>) {
    auth::routes(cfg);
    organizations::routes(cfg);
    waiting_users::routes(cfg);
    permissions::routes(cfg);
    users::routes(cfg);
    kombit_creation::routes(cfg);
    api_keys::routes(cfg);
    logs::routes(cfg);
    applications::routes(cfg);
    device_models::routes(cfg);
    devices::routes(cfg);
    gateways::routes(cfg);
    gateway_status::routes(cfg);
    device_profiles::routes(cfg);
    multicasts::routes(cfg);
    decoders::routes(cfg);
    test_decoder::routes(cfg);
    targets::routes(cfg);
    target_state::routes(cfg);
    dead_letters::routes(cfg);
    connections::routes(cfg);
    search::routes(cfg);
    sigfox::routes(cfg);
    open_data::routes(cfg);
    target_test::routes(cfg);
    decoder_errors::routes(cfg);
    live_tail::routes(cfg);
    unknown_devices::routes(cfg);
}
