//! The administrative API, one module per resource. To add one: write its module with a `routes` function and name it here.

pub mod view;

use actix_web::web;

/// Every administrative route below the API's prefix.
pub fn routes(_cfg: &mut web::ServiceConfig) {}
