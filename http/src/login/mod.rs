//! Logging in by a provider: what is the same for KOMBIT and OpenID Connect. [`attempt`] is what a browser keeps from leaving to
//! coming back, [`front_end`] where it may be sent then, [`admission`] how somebody for whom a provider vouched gets his token.
//! The routes are in `admin/kombit.rs` and `admin/oidc.rs`.

pub mod admission;
pub mod attempt;
pub mod front_end;

use std::sync::Arc;

use sluse_schema::port::{OidcProvider, SamlProvider};

/// The providers that are configured.
#[derive(Clone, Debug, Default)]
pub struct LogInProviders {
    pub kombit: Option<Arc<dyn SamlProvider>>,
    pub oidc: Option<Arc<dyn OidcProvider>>,
}
