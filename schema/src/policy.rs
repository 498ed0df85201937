//! Who may do what. Deny by default, pure, and the only maker of a [`Permit`], without which no administrative row is written (I5).
//!
//! | resource | read | write |
//! |---|---|---|
//! | platform | global admin | global admin |
//! | shared (decoders, gateways, names) | any role anywhere | global admin |
//! | content of an organisation (decoders, models, lists of applications) | Read, AppAdmin, UserAdmin of it | AppAdmin of it |
//! | users and groups of an organisation | UserAdmin of it | UserAdmin of it |
//! | an organisation with the names of its groups | UserAdmin, Read of it | global admin |
//! | an API key | UserAdmin of all organisations of its groups | the same |
//! | gateways of an organisation | any role in it | GatewayAdmin of it |
//! | an application and what belongs to it | Read, AppAdmin mapped to it, UserAdmin of its organisation | AppAdmin mapped to it |
//! | a new account | nobody | UserAdmin of all organisations of its groups |
//! | an account | UserAdmin of one of its organisations, or oneself | UserAdmin of all its organisations, never a global admin's |
//! | oneself | oneself | oneself |
//!
//! A global administrator passes all. "Mapped" counts only together with the application's own organisation.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{ApplicationId, OrganizationId, UserId};
use crate::permission::{Principal, Role};

/// What somebody wants to do with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Read,
    /// Create, change, delete.
    Write,
}

/// What somebody wants to do it with. Ids come from the database, never unchecked from a request: an application always comes
/// with the organisation it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Organisations themselves, the group of global administrators, whatever belongs to nobody.
    Platform,
    /// What every role may see, whichever organisation it belongs to.
    Shared,
    /// Decoders, device models, new applications.
    Organization(OrganizationId),
    /// Users, groups and API keys.
    OrganizationUsers(OrganizationId),
    /// An organisation itself, with its groups' names.
    OrganizationProfile(OrganizationId),
    /// An API key.
    ApiKey {
        /// Organisations of its groups; none is no key of anybody's.
        organizations: Vec<OrganizationId>,
        /// Whether it has the group of global administrators.
        is_global_admin: bool,
    },
    /// Gateways.
    OrganizationGateways(OrganizationId),
    /// An application, its devices, targets and connections.
    Application {
        /// The application.
        application: ApplicationId,
        /// The organisation it belongs to now.
        organization: OrganizationId,
    },
    /// An account that is not there yet.
    NewAccount {
        /// Organisations of the groups that it is to have.
        organizations: Vec<OrganizationId>,
        /// Whether it is to be a global administrator's.
        is_global_admin: bool,
    },
    /// Somebody's account: name, e-mail, password, whether it is active.
    Account {
        /// Whose.
        user: UserId,
        /// Every organisation in which he has a group.
        organizations: Vec<OrganizationId>,
        /// Whether he is a global administrator.
        is_global_admin: bool,
    },
    /// What concerns only this user.
    Own(UserId),
}

/// Proof that the policy allowed a principal this action on this resource. Only [`decide`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    action: Action,
    resource: Resource,
    principal: UserId,
}

impl Permit {
    /// What was allowed.
    pub fn action(&self) -> Action {
        self.action
    }

    /// On what.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// To whom.
    pub fn principal(&self) -> UserId {
        self.principal
    }

    /// Whether this is a permit to write `resource`. A store checks it against the row it is about to change, so that a permit
    /// for one application does not write another's.
    pub fn covers_write(&self, resource: &Resource) -> bool {
        self.action == Action::Write && self.resource == *resource
    }
}

/// Why something is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The principal has this role nowhere.
    #[error("the caller has the role {} in no organisation", .0.as_str())]
    Role(Role),
    /// The principal has no right to this resource.
    #[error("the caller has no right to this")]
    Scope,
}

/// Whether the principal has `role` in at least one organisation. `Read` is had by everybody who has any role.
///
/// # Errors
/// [`Denied::Role`].
pub fn require_role(principal: &Principal, role: Role) -> Result<(), Denied> {
    let has = principal.is_global_admin
        || match role {
            Role::GlobalAdmin => false,
            Role::OrganizationUserAdmin => !principal.user_admins.is_empty(),
            Role::OrganizationGatewayAdmin => !principal.gateway_admins.is_empty(),
            Role::OrganizationApplicationAdmin => !principal.application_admins.is_empty(),
            Role::Read => has_any_role(principal),
        };
    if has { Ok(()) } else { Err(Denied::Role(role)) }
}

/// Decides, and hands out the permit.
///
/// # Errors
/// [`Denied::Scope`] unless a rule of the table above allows it.
pub fn decide(principal: &Principal, action: Action, resource: Resource) -> Result<Permit, Denied> {
    if principal.is_global_admin || is_allowed(principal, action, &resource) {
        return Ok(Permit { action, resource, principal: principal.user });
    }
    Err(Denied::Scope)
}

fn is_allowed(principal: &Principal, action: Action, resource: &Resource) -> bool {
    let sees_content = |o: &OrganizationId| {
        principal.readers.contains_key(o)
            || principal.application_admins.contains_key(o)
            || principal.user_admins.contains(o)
    };
    let administers_all =
        |organizations: &[OrganizationId]| organizations.iter().all(|o| principal.user_admins.contains(o));
    match (resource, action) {
        (Resource::Platform, _) | (Resource::Shared, Action::Write) => false,
        (Resource::Shared, Action::Read) => has_any_role(principal),
        (Resource::Organization(o), Action::Read) => sees_content(o),
        (Resource::Organization(o), Action::Write) => principal.application_admins.contains_key(o),
        (Resource::OrganizationUsers(o), _) => principal.user_admins.contains(o),
        (Resource::OrganizationProfile(o), Action::Read) => {
            principal.readers.contains_key(o) || principal.user_admins.contains(o)
        }
        (Resource::OrganizationProfile(_), Action::Write) | (Resource::NewAccount { .. }, Action::Read) => false,
        (Resource::ApiKey { organizations, is_global_admin }, _) => {
            !is_global_admin && !organizations.is_empty() && administers_all(organizations)
        }
        (Resource::OrganizationGateways(o), Action::Read) => sees_content(o) || principal.gateway_admins.contains(o),
        (Resource::OrganizationGateways(o), Action::Write) => principal.gateway_admins.contains(o),
        (Resource::Application { application, organization }, action) => {
            let mapped = |by_organization: &BTreeMap<OrganizationId, BTreeSet<ApplicationId>>| {
                by_organization.get(organization).is_some_and(|apps| apps.contains(application))
            };
            let writes = mapped(&principal.application_admins);
            match action {
                Action::Write => writes,
                Action::Read => writes || mapped(&principal.readers) || principal.user_admins.contains(organization),
            }
        }
        (Resource::Account { user, organizations, .. }, Action::Read) => {
            *user == principal.user || organizations.iter().any(|o| principal.user_admins.contains(o))
        }
        (Resource::NewAccount { organizations, is_global_admin }, Action::Write) => {
            !is_global_admin && !principal.user_admins.is_empty() && administers_all(organizations)
        }
        (Resource::Account { organizations, is_global_admin, .. }, Action::Write) => {
            !is_global_admin && !organizations.is_empty() && administers_all(organizations)
        }
        (Resource::Own(user), _) => *user == principal.user,
    }
}

fn has_any_role(principal: &Principal) -> bool {
    principal.is_global_admin
        || !principal.readers.is_empty()
        || !principal.application_admins.is_empty()
        || !principal.user_admins.is_empty()
        || !principal.gateway_admins.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::permission::{Grant, PrincipalKind};

    const ME: UserId = UserId(1);

    fn me(grants: &[Grant]) -> Principal {
        Principal::new(ME, "me", PrincipalKind::User, grants)
    }

    fn grant(organization: Option<i64>, roles: &[Role], applications: &[i64]) -> Grant {
        Grant {
            organization: organization.map(OrganizationId),
            roles: roles.to_vec(),
            applications: applications.iter().copied().map(ApplicationId).collect(),
        }
    }

    /// The rules again, written as the reference documents them: one group at a time, nothing precomputed.
    fn naive(grants: &[Grant], action: Action, resource: &Resource) -> bool {
        let global = grants.iter().any(|g| g.organization.is_none() && g.roles.contains(&Role::GlobalAdmin));
        let has =
            |o: OrganizationId, role: Role| grants.iter().any(|g| g.organization == Some(o) && g.roles.contains(&role));
        let maps = |o: OrganizationId, role: Role, a: ApplicationId| {
            grants.iter().any(|g| g.organization == Some(o) && g.roles.contains(&role) && g.applications.contains(&a))
        };
        let any = |o: OrganizationId| Role::ALL.into_iter().any(|r| r != Role::GlobalAdmin && has(o, r));
        use Role::{
            OrganizationApplicationAdmin as A, OrganizationGatewayAdmin as G, OrganizationUserAdmin as U, Read as R,
        };
        global
            || match (resource.clone(), action) {
                (Resource::Platform, _) | (Resource::Shared, Action::Write) => false,
                (Resource::Shared, Action::Read) => grants.iter().filter_map(|g| g.organization).any(any),
                (Resource::Organization(o), Action::Read) => has(o, R) || has(o, A) || has(o, U),
                (Resource::Organization(o), Action::Write) => has(o, A),
                (Resource::OrganizationUsers(o), _) => has(o, U),
                (Resource::OrganizationGateways(o), Action::Read) => any(o),
                (Resource::OrganizationGateways(o), Action::Write) => has(o, G),
                (Resource::Application { application: a, organization: o }, Action::Read) => {
                    maps(o, R, a) || maps(o, A, a) || has(o, U)
                }
                (Resource::Application { application: a, organization: o }, Action::Write) => maps(o, A, a),
                (Resource::Account { user, organizations, .. }, Action::Read) => {
                    user == ME || organizations.into_iter().any(|o| has(o, U))
                }
                (Resource::OrganizationProfile(o), Action::Read) => has(o, R) || has(o, U),
                (Resource::OrganizationProfile(_), Action::Write) | (Resource::NewAccount { .. }, Action::Read) => {
                    false
                }
                (Resource::ApiKey { organizations, is_global_admin }, _) => {
                    !is_global_admin && !organizations.is_empty() && organizations.into_iter().all(|o| has(o, U))
                }
                (Resource::NewAccount { organizations, is_global_admin }, Action::Write) => {
                    let administers = grants.iter().any(|g| g.organization.is_some() && g.roles.contains(&U));
                    !is_global_admin && administers && organizations.into_iter().all(|o| has(o, U))
                }
                (Resource::Account { organizations, is_global_admin, .. }, Action::Write) => {
                    !is_global_admin && !organizations.is_empty() && organizations.into_iter().all(|o| has(o, U))
                }
                (Resource::Own(user), _) => user == ME,
            }
    }

    fn any_grant() -> impl Strategy<Value = Grant> {
        let roles = proptest::collection::vec(proptest::sample::select(Role::ALL.to_vec()), 0..3);
        (proptest::option::weighted(0.9, 0i64..3), roles, proptest::collection::vec(0i64..4, 0..3))
            .prop_map(|(o, roles, apps)| grant(o, &roles, &apps))
    }

    fn any_resource() -> impl Strategy<Value = Resource> {
        let organization = || (0i64..4).prop_map(OrganizationId);
        prop_oneof![
            Just(Resource::Platform),
            Just(Resource::Shared),
            organization().prop_map(Resource::Organization),
            organization().prop_map(Resource::OrganizationUsers),
            organization().prop_map(Resource::OrganizationGateways),
            (0i64..5, organization())
                .prop_map(|(a, organization)| Resource::Application { application: ApplicationId(a), organization }),
            (0i64..3, proptest::collection::vec(organization(), 0..3), any::<bool>()).prop_map(
                |(user, organizations, is_global_admin)| Resource::Account {
                    user: UserId(user),
                    organizations,
                    is_global_admin
                }
            ),
            organization().prop_map(Resource::OrganizationProfile),
            (proptest::collection::vec(organization(), 0..3), any::<bool>())
                .prop_map(|(organizations, is_global_admin)| Resource::ApiKey { organizations, is_global_admin }),
            (proptest::collection::vec(organization(), 0..3), any::<bool>())
                .prop_map(|(organizations, is_global_admin)| Resource::NewAccount { organizations, is_global_admin }),
            (0i64..3).prop_map(|user| Resource::Own(UserId(user))),
        ]
    }

    /// Every group that gives one role in one of two organisations, or in none, over none or one of two applications.
    fn every_grant() -> Vec<Grant> {
        let mut grants = Vec::new();
        for organization in [None, Some(1), Some(2)] {
            for role in Role::ALL {
                for applications in [&[][..], &[1], &[2]] {
                    grants.push(grant(organization, &[role], applications));
                }
            }
        }
        grants
    }

    /// Everything that there is to decide about, over the same organisations and applications and one of neither.
    fn every_resource() -> Vec<Resource> {
        let mut resources = vec![Resource::Platform, Resource::Shared];
        for o in (1..=3).map(OrganizationId) {
            resources.extend([
                Resource::Organization(o),
                Resource::OrganizationUsers(o),
                Resource::OrganizationProfile(o),
                Resource::OrganizationGateways(o),
            ]);
            resources.extend((1..=3).map(|a| Resource::Application { application: ApplicationId(a), organization: o }));
        }
        for organizations in [vec![], vec![1], vec![2], vec![1, 2], vec![1, 3]] {
            let organizations: Vec<_> = organizations.into_iter().map(OrganizationId).collect();
            for is_global_admin in [false, true] {
                let organizations = || organizations.clone();
                resources.push(Resource::ApiKey { organizations: organizations(), is_global_admin });
                resources.push(Resource::NewAccount { organizations: organizations(), is_global_admin });
                for user in [ME, UserId(2)] {
                    resources.push(Resource::Account { user, organizations: organizations(), is_global_admin });
                }
            }
        }
        resources.extend([Resource::Own(ME), Resource::Own(UserId(2))]);
        resources
    }

    /// Chance finds a wrong rule about one role only now and then; there are few enough of them to try all.
    #[test]
    fn every_pair_of_groups_gives_what_the_documented_rules_say() {
        let (grants, resources) = (every_grant(), every_resource());
        let pairs = grants.iter().flat_map(|first| grants.iter().map(move |second| [first.clone(), second.clone()]));
        for pair in pairs {
            let principal = me(&pair);
            for (resource, action) in resources.iter().flat_map(|r| [(r, Action::Read), (r, Action::Write)]) {
                let decided = decide(&principal, action, resource.clone());
                assert_eq!(decided.is_ok(), naive(&pair, action, resource), "{action:?} {resource:?} with {pair:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn decisions_agree_with_the_documented_rules(
            grants in proptest::collection::vec(any_grant(), 0..4),
            resource in any_resource(),
            write in any::<bool>(),
        ) {
            let action = if write { Action::Write } else { Action::Read };
            let decided = decide(&me(&grants), action, resource.clone());
            prop_assert_eq!(decided.is_ok(), naive(&grants, action, &resource));
            if let Ok(permit) = decided {
                prop_assert_eq!(permit.covers_write(&resource), write);
            }
        }

        #[test]
        fn nobody_without_groups_is_allowed_anything_but_himself(resource in any_resource(), write in any::<bool>()) {
            let action = if write { Action::Write } else { Action::Read };
            let is_self = matches!(&resource, Resource::Own(u) if *u == ME)
                || (!write && matches!(&resource, Resource::Account { user, .. } if *user == ME));
            prop_assert_eq!(decide(&me(&[]), action, resource).is_ok(), is_self);
        }
    }

    #[test]
    fn a_global_admin_level_in_a_tenants_group_gives_nothing() {
        let sly = me(&[grant(Some(1), &[Role::GlobalAdmin], &[])]);
        assert!(!sly.is_global_admin());
        assert_eq!(require_role(&sly, Role::Read), Err(Denied::Role(Role::Read)));
        assert_eq!(decide(&sly, Action::Read, Resource::Platform), Err(Denied::Scope));
    }

    #[test]
    fn an_application_that_is_mapped_from_another_tenant_is_not_readable() {
        let reader = me(&[grant(Some(1), &[Role::Read], &[7])]);
        let foreign = Resource::Application { application: ApplicationId(7), organization: OrganizationId(2) };
        assert_eq!(decide(&reader, Action::Read, foreign), Err(Denied::Scope));
    }

    #[test]
    fn a_permit_for_one_application_covers_no_other() {
        let admin = me(&[grant(Some(1), &[Role::OrganizationApplicationAdmin], &[7, 8])]);
        let of = |a| Resource::Application { application: ApplicationId(a), organization: OrganizationId(1) };
        let permit = decide(&admin, Action::Write, of(7)).unwrap();
        assert!(permit.covers_write(&of(7)));
        assert!(!permit.covers_write(&of(8)));
        assert!(!decide(&admin, Action::Read, of(7)).unwrap().covers_write(&of(7)));
    }

    #[test]
    fn a_user_admin_cannot_change_a_global_admins_account_or_one_shared_with_another_tenant() {
        let admin = me(&[grant(Some(1), &[Role::OrganizationUserAdmin], &[])]);
        let account = |organizations: &[i64], is_global_admin| Resource::Account {
            user: UserId(9),
            organizations: organizations.iter().copied().map(OrganizationId).collect(),
            is_global_admin,
        };
        assert!(decide(&admin, Action::Write, account(&[1], false)).is_ok());
        assert!(decide(&admin, Action::Write, account(&[1], true)).is_err());
        assert!(decide(&admin, Action::Write, account(&[1, 2], false)).is_err());
        assert!(decide(&admin, Action::Write, account(&[], false)).is_err());
    }
}
