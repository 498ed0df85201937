//! Who somebody is and what his groups give him: roles, grants, principals. What he may do with it is decided in
//! [`crate::policy`].
//!
//! A group ("permission" in the API) belongs to one organisation, or to none: that is the group of global administrators. It
//! gives its members its roles in its organisation; `Read` and `OrganizationApplicationAdmin` hold for the group's applications
//! only, and only for those of the group's own organisation.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{ApplicationId, OrganizationId, UserId};

/// What a group gives its members (`PermissionType` in the API).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Everything, everywhere.
    GlobalAdmin,
    /// Users, groups and API keys of the organisation; sees its applications.
    OrganizationUserAdmin,
    /// Gateways of the organisation.
    OrganizationGatewayAdmin,
    /// Changes the group's applications, and the organisation's decoders and device models.
    OrganizationApplicationAdmin,
    /// Sees the group's applications.
    Read,
}

impl Role {
    /// In the order of the API's enumeration.
    pub const ALL: [Self; 5] = [
        Self::GlobalAdmin,
        Self::OrganizationUserAdmin,
        Self::OrganizationGatewayAdmin,
        Self::OrganizationApplicationAdmin,
        Self::Read,
    ];

    /// Text form in the API and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GlobalAdmin => "GlobalAdmin",
            Self::OrganizationUserAdmin => "OrganizationUserAdmin",
            Self::OrganizationGatewayAdmin => "OrganizationGatewayAdmin",
            Self::OrganizationApplicationAdmin => "OrganizationApplicationAdmin",
            Self::Read => "Read",
        }
    }

    /// The role of this name.
    pub fn of_str(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

/// How somebody proved who he is; also the text in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A user with a token.
    User,
    /// A program with an API key; its user id is the key's system user.
    ApiKey,
    /// Sluse itself: first start, the command line.
    System,
    /// Nobody who proved who he is; only in the audit log.
    Nobody,
}

impl PrincipalKind {
    /// Text form in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "jwt",
            Self::ApiKey => "api-key",
            Self::System => "system",
            Self::Nobody => "nobody",
        }
    }
}

/// One group of a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `None`: the group of global administrators.
    pub organization: Option<OrganizationId>,
    pub roles: Vec<Role>,
    /// Applications of the same organisation.
    pub applications: Vec<ApplicationId>,
}

/// An authenticated caller with the union of what his groups give him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub user: UserId,
    /// E-mail, or the name of the API key.
    pub name: String,
    pub kind: PrincipalKind,
    pub(crate) is_global_admin: bool,
    pub(crate) readers: BTreeMap<OrganizationId, BTreeSet<ApplicationId>>,
    pub(crate) application_admins: BTreeMap<OrganizationId, BTreeSet<ApplicationId>>,
    pub(crate) user_admins: BTreeSet<OrganizationId>,
    pub(crate) gateway_admins: BTreeSet<OrganizationId>,
}

impl Principal {
    /// A principal with these groups. `GlobalAdmin` counts only in a group without an organisation, the other roles only in one
    /// with an organisation: a tenant's administrator cannot make himself more than that.
    pub fn new(user: UserId, name: impl Into<String>, kind: PrincipalKind, grants: &[Grant]) -> Self {
        let mut principal = Self {
            user,
            name: name.into(),
            kind,
            is_global_admin: false,
            readers: BTreeMap::new(),
            application_admins: BTreeMap::new(),
            user_admins: BTreeSet::new(),
            gateway_admins: BTreeSet::new(),
        };
        for grant in grants {
            principal.add(grant);
        }
        principal
    }

    /// Sluse itself, for what happens without a caller: first start, the command line.
    pub fn system() -> Self {
        let everything = Grant { organization: None, roles: vec![Role::GlobalAdmin], applications: Vec::new() };
        Self::new(UserId(0), "sluse", PrincipalKind::System, &[everything])
    }

    fn add(&mut self, grant: &Grant) {
        let Some(organization) = grant.organization else {
            self.is_global_admin |= grant.roles.contains(&Role::GlobalAdmin);
            return;
        };
        let applications = || grant.applications.iter().copied();
        for role in &grant.roles {
            match role {
                Role::GlobalAdmin => {}
                Role::OrganizationUserAdmin => {
                    self.user_admins.insert(organization);
                }
                Role::OrganizationGatewayAdmin => {
                    self.gateway_admins.insert(organization);
                }
                Role::OrganizationApplicationAdmin => {
                    self.application_admins.entry(organization).or_default().extend(applications());
                }
                Role::Read => self.readers.entry(organization).or_default().extend(applications()),
            }
        }
    }

    /// Whether everything is allowed.
    pub fn is_global_admin(&self) -> bool {
        self.is_global_admin
    }

    /// Organisations in which the principal has one of these roles. A global administrator's are not listed: he has all.
    pub fn organizations_with(&self, roles: &[Role]) -> Vec<OrganizationId> {
        let mut found = BTreeSet::new();
        for role in roles {
            match role {
                Role::GlobalAdmin => {}
                Role::OrganizationUserAdmin => found.extend(&self.user_admins),
                Role::OrganizationGatewayAdmin => found.extend(&self.gateway_admins),
                Role::OrganizationApplicationAdmin => found.extend(self.application_admins.keys()),
                Role::Read => found.extend(self.readers.keys()),
            }
        }
        found.into_iter().collect()
    }

    /// Organisations in which the principal has any role at all.
    pub fn organizations(&self) -> Vec<OrganizationId> {
        self.organizations_with(&Role::ALL)
    }

    /// What of applications the principal sees, for lists: filter by this instead of asking for each.
    pub fn visible_applications(&self) -> Visible {
        if self.is_global_admin {
            return Visible::All;
        }
        self.visible_where(|_| true)
    }

    /// The same in these organisations alone. A global administrator sees everything all the same.
    pub fn visible_applications_in(&self, organizations: &[OrganizationId]) -> Visible {
        if self.is_global_admin {
            return Visible::All;
        }
        self.visible_where(|organization| organizations.contains(&organization))
    }

    fn visible_where(&self, is_meant: impl Fn(OrganizationId) -> bool) -> Visible {
        let mapped = self.readers.iter().chain(&self.application_admins);
        let mapped = mapped.filter(|(organization, _)| is_meant(**organization)).flat_map(|(_, ids)| ids);
        Visible::Some {
            organizations: self.user_admins.iter().copied().filter(|o| is_meant(*o)).collect(),
            applications: mapped.copied().collect::<BTreeSet<_>>().into_iter().collect(),
        }
    }
}

/// A filter for lists: what a principal may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visible {
    /// Everything.
    All,
    /// What belongs to one of these organisations, and these applications. Both empty: nothing.
    Some {
        /// Every application of these.
        organizations: Vec<OrganizationId>,
        /// These, whatever their organisation.
        applications: Vec<ApplicationId>,
    },
}
