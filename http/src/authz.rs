//! Authorisation at the edge: a handler's first argument says who may call it, and its permits come from the policy.
//!
//! `caller: Caller<UserAdmin>` lets in whoever has that role somewhere, with a token or an API key; `Caller<TokenOnly<UserAdmin>>`
//! only with a token. [`Caller::read`] and [`Caller::write`] then decide about one resource.

use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use sluse_schema::permission::{Principal, PrincipalKind, Role};
use sluse_schema::policy::{Action, Permit, Resource, decide, require_role};
use sluse_schema::port::admin::ChangedBy;

use crate::authn::{Authenticated, Authentication};
use crate::context::AppState;
use crate::error::{ApiError, ApiResult};
use crate::request_id::request_id;

/// Who may call a handler.
pub trait Rule: 'static {
    /// A role that is had somewhere; `None`: any authenticated caller.
    const ROLE: Option<Role>;
    /// Whether an API key will do.
    const ACCEPTS_API_KEY: bool = true;
    /// Whether a token will do.
    const ACCEPTS_TOKEN: bool = true;
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $role:expr;)*) => {
        $($(#[$doc])* #[derive(Debug)] pub struct $name;
        impl Rule for $name { const ROLE: Option<Role> = $role; })*
    };
}

rules! {
    /// Anybody who is authenticated.
    Anyone = None;
    /// Any role at all.
    Reader = Some(Role::Read);
    /// Administers applications somewhere.
    ApplicationAdmin = Some(Role::OrganizationApplicationAdmin);
    /// Administers users somewhere.
    UserAdmin = Some(Role::OrganizationUserAdmin);
    /// Administers gateways somewhere.
    GatewayAdmin = Some(Role::OrganizationGatewayAdmin);
    /// Administers everything.
    GlobalAdmin = Some(Role::GlobalAdmin);
}

/// The same, but an API key will not do.
#[derive(Debug)]
pub struct TokenOnly<R>(PhantomData<R>);

impl<R: Rule> Rule for TokenOnly<R> {
    const ROLE: Option<Role> = R::ROLE;
    const ACCEPTS_API_KEY: bool = false;
}

/// The same, but a token will not do.
#[derive(Debug)]
pub struct KeyOnly<R>(PhantomData<R>);

impl<R: Rule> Rule for KeyOnly<R> {
    const ROLE: Option<Role> = R::ROLE;
    const ACCEPTS_TOKEN: bool = false;
}

/// Who changes something with this request, for the change log.
pub fn changed_by(request: &HttpRequest, known: &Authenticated) -> ChangedBy {
    let remote_address = request
        .app_data::<web::Data<AppState>>()
        .and_then(|state| state.remote_address(request))
        .map(|address| address.to_string());
    ChangedBy {
        user: known.principal.user,
        kind: known.principal.kind,
        credential: Some(known.credential.clone()),
        remote_address,
        request_id: request_id(request),
    }
}

/// An authenticated caller who met the rule `R`.
#[derive(Debug)]
pub struct Caller<R: Rule = Anyone> {
    pub principal: Arc<Principal>,
    /// For the change log.
    pub changed_by: ChangedBy,
    rule: PhantomData<R>,
}

impl<R: Rule> Caller<R> {
    /// Permission to read, or 403.
    pub fn read(&self, resource: Resource) -> ApiResult<Permit> {
        Ok(decide(&self.principal, Action::Read, resource)?)
    }

    /// Permission to write, or 403.
    pub fn write(&self, resource: Resource) -> ApiResult<Permit> {
        Ok(decide(&self.principal, Action::Write, resource)?)
    }

    fn of_request(request: &HttpRequest) -> ApiResult<Self> {
        let authentication = request.extensions().get::<Authentication>().cloned();
        let known = match authentication {
            Some(Authentication::Known(known)) => known,
            // Where keys are not accepted at all, a wrong one is no different from none.
            Some(Authentication::Failed(error)) if R::ACCEPTS_API_KEY => return Err(error),
            Some(Authentication::Failed(error)) if error.status().is_server_error() => return Err(error),
            _ => return Err(ApiError::unauthorized()),
        };
        if known.principal.kind == PrincipalKind::ApiKey && !R::ACCEPTS_API_KEY {
            return Err(ApiError::unauthorized());
        }
        if known.principal.kind == PrincipalKind::User && !R::ACCEPTS_TOKEN {
            return Err(ApiError::unauthorized());
        }
        if let Some(role) = R::ROLE {
            require_role(&known.principal, role)?;
        }
        let changed_by = changed_by(request, &known);
        Ok(Self { principal: known.principal, changed_by, rule: PhantomData })
    }
}

impl<R: Rule> FromRequest for Caller<R> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        ready(Self::of_request(request))
    }
}
