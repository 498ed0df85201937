//! Organisations, groups, users: what goes in and what comes out.

use chrono::{DateTime, Utc};
use utoipa::ToSchema;

use super::applications::Application;

/// An organisation: a tenant.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Organization {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    pub open_data_dk_registered: bool,
}

/// An organisation with its groups.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct OrganizationDetail {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    pub open_data_dk_registered: bool,
    pub permissions: Vec<Permission>,
    #[schema(required)]
    pub created_by: Option<i64>,
    #[schema(required)]
    pub updated_by: Option<i64>,
}

/// An organisation in a list, with its applications.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct OrganizationListing {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    pub open_data_dk_registered: bool,
    pub applications: Vec<Application>,
}

/// A name to give an organisation.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct OrganizationDraft {
    /// Up to 1024 characters, unique.
    pub name: String,
}

/// An id with its name.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Named {
    pub id: i64,
    pub name: String,
}

/// A user group ("permission").
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Permission {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    /// Whether clients propose it for new applications.
    #[schema(required)]
    pub automatically_add_new_applications: Option<bool>,
    pub application_ids: Vec<i64>,
}

/// A role that a group gives.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Level {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// `GlobalAdmin`, `OrganizationUserAdmin`, `OrganizationGatewayAdmin`, `OrganizationApplicationAdmin` or `Read`.
    #[schema(rename = "type")]
    pub role: String,
}

/// A user group with its organisation, members, applications and roles.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct PermissionDetail {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    #[schema(required)]
    pub automatically_add_new_applications: Option<bool>,
    pub application_ids: Vec<i64>,
    /// None: the group of global administrators.
    #[schema(required)]
    pub organization: Option<Organization>,
    pub users: Vec<User>,
    #[schema(rename = "type")]
    pub levels: Vec<Level>,
    pub applications: Option<Vec<Application>>,
    pub created_by: Option<i64>,
    pub updated_by: Option<i64>,
}

/// A role to give.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct LevelDraft {
    #[schema(rename = "type")]
    pub role: String,
}

/// A user group to create.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct PermissionDraft {
    /// 1 to 1024 characters.
    pub name: String,
    /// Distinct roles; they never change.
    pub levels: Vec<LevelDraft>,
    pub organization_id: i64,
    pub user_ids: Vec<i64>,
    pub application_ids: Option<Vec<i64>>,
    pub automatically_add_new_applications: Option<bool>,
}

/// A user group to change: members and applications are replaced.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct PermissionChange {
    pub name: String,
    pub user_ids: Vec<i64>,
    /// Missing: none any more.
    pub application_ids: Option<Vec<i64>>,
    pub automatically_add_new_applications: Option<bool>,
}

/// A user.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct User {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    #[schema(required)]
    pub email: Option<String>,
    pub active: bool,
    #[schema(required)]
    pub last_login: Option<DateTime<Utc>>,
    /// The name an identity provider knows him by.
    #[schema(required)]
    pub name_id: Option<String>,
    #[schema(required)]
    pub awaiting_confirmation: Option<bool>,
    /// The user behind an API key.
    pub is_system_user: bool,
    #[schema(required)]
    pub show_welcome_screen: Option<bool>,
    #[schema(required)]
    pub expires_on: Option<DateTime<Utc>>,
}

/// A user with his groups.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct UserDetail {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    #[schema(required)]
    pub email: Option<String>,
    pub active: bool,
    #[schema(required)]
    pub last_login: Option<DateTime<Utc>>,
    #[schema(required)]
    pub name_id: Option<String>,
    #[schema(required)]
    pub awaiting_confirmation: Option<bool>,
    pub is_system_user: bool,
    #[schema(required)]
    pub show_welcome_screen: Option<bool>,
    #[schema(required)]
    pub expires_on: Option<DateTime<Utc>>,
    pub permissions: Vec<Permission>,
    pub requested_organizations: Option<Vec<Organization>>,
    #[schema(required)]
    pub created_by: Option<i64>,
    #[schema(required)]
    pub updated_by: Option<i64>,
}

/// The caller with his groups.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct OwnUser {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub name: String,
    #[schema(required)]
    pub email: Option<String>,
    pub active: bool,
    #[schema(required)]
    pub last_login: Option<DateTime<Utc>>,
    #[schema(required)]
    pub name_id: Option<String>,
    #[schema(required)]
    pub awaiting_confirmation: Option<bool>,
    pub is_system_user: bool,
    #[schema(required)]
    pub show_welcome_screen: Option<bool>,
    #[schema(required)]
    pub expires_on: Option<DateTime<Utc>>,
    pub permissions: Vec<Permission>,
}

/// A user to create or change.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct UserDraft {
    /// 1 to 50 characters, not blank.
    pub name: String,
    /// Needed to create one.
    pub email: Option<String>,
    /// 6 to 50 characters; needed to create one.
    pub password: Option<String>,
    pub active: Option<bool>,
    /// Only a global administrator may say so.
    pub global_admin: Option<bool>,
    /// Replaces the groups.
    pub permission_ids: Option<Vec<i64>>,
    pub expires_on: Option<DateTime<Utc>>,
}

/// Ids and names of users.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct UserNames {
    pub users: Vec<Named>,
}
