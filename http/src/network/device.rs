//! A radio device in the network server: what it is, the key that it joins with, or the session that was set by hand.
//!
//! A session is set again only when its address or a key changed, or when a counter was set to something that the network server
//! does not show: forms send back what they were loaded with, and a counter that is a little behind is that, not a wish.

use sluse_schema::port::NetworkServer;
use sluse_schema::port::admin::device::DeviceFields;
use sluse_schema::port::network_server::{Answer, NetworkDevice, NetworkServerError, Session};
use sluse_schema::secret::Secret;

use crate::admin::device_shape::{APPLICATION_SESSION_KEY, NETWORK_SESSION_KEY, OTAA_KEY};

/// A counter that is behind by so much is what a form was loaded with.
const F_CNT_ECHO_MAX: u32 = 64;

/// How a device gets its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activation {
    None,
    Otaa(Secret),
    Abp(Session),
}

/// A device as the network server is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub device: NetworkDevice,
    pub activation: Activation,
}

/// What happened to the network server's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Created,
    Updated,
}

impl Registration {
    /// What a row says; `None` for one that has no place in the network server.
    pub fn of(fields: &DeviceFields) -> Option<Self> {
        let settings = fields.settings.get("lorawanSettings")?;
        let text = |name: &str| settings.get(name)?.as_str().map(str::to_owned);
        let flag = |name: &str| settings.get(name).and_then(serde_json::Value::as_bool).unwrap_or(false);
        let count =
            |name: &str| settings.get(name).and_then(serde_json::Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let secret = |name: &str| fields.secrets.get(name).cloned();
        let activation = match text("activationType").as_deref() {
            Some("OTAA") => secret(OTAA_KEY).map_or(Activation::None, Activation::Otaa),
            Some("ABP") => Activation::Abp(Session {
                dev_addr: text("devAddr")?.to_ascii_lowercase(),
                network_session_key: secret(NETWORK_SESSION_KEY)?,
                application_session_key: secret(APPLICATION_SESSION_KEY)?,
                f_cnt_up: count("fCntUp").unwrap_or(0),
                n_f_cnt_down: count("nFCntDown").unwrap_or(0),
            }),
            _ => Activation::None,
        };
        Some(Self {
            device: NetworkDevice {
                dev_eui: fields.dev_eui?,
                name: fields.name.clone(),
                description: fields.comment.clone().unwrap_or_default(),
                application: fields.settings.get("chirpstackApplicationId")?.as_str()?.to_owned(),
                profile: text("deviceProfileID")?,
                is_disabled: flag("isDisabled"),
                skips_f_cnt_check: flag("skipFCntCheck"),
            },
            activation,
        })
    }

    /// Writes the device with its key or session, whether it is there or not.
    pub async fn push(&self, network: &dyn NetworkServer) -> Answer<Pushed> {
        let pushed = match network.update_device(&self.device).await {
            Ok(()) => Pushed::Updated,
            Err(NetworkServerError::NotFound) => {
                network.create_device(&self.device).await?;
                Pushed::Created
            }
            Err(error) => return Err(error),
        };
        self.push_activation(network).await?;
        Ok(pushed)
    }

    /// Writes key or session of a device that is there.
    pub async fn push_activation(&self, network: &dyn NetworkServer) -> Answer<()> {
        let dev_eui = self.device.dev_eui;
        match &self.activation {
            Activation::None => Ok(()),
            Activation::Otaa(key) => network.set_join_key(dev_eui, key).await,
            Activation::Abp(wanted) => match network.session(dev_eui).await? {
                Some(current) if is_same_session(wanted, &current) => Ok(()),
                _ => network.activate(dev_eui, wanted).await,
            },
        }
    }
}

fn is_same_key(a: &Secret, b: &Secret) -> bool {
    a.reveal().eq_ignore_ascii_case(b.reveal())
}

fn is_echo(wanted: u32, current: u32) -> bool {
    wanted <= current && current - wanted <= F_CNT_ECHO_MAX
}

fn is_same_session(wanted: &Session, current: &Session) -> bool {
    wanted.dev_addr.eq_ignore_ascii_case(&current.dev_addr)
        && is_same_key(&wanted.network_session_key, &current.network_session_key)
        && is_same_key(&wanted.application_session_key, &current.application_session_key)
        && is_echo(wanted.f_cnt_up, current.f_cnt_up)
        && is_echo(wanted.n_f_cnt_down, current.n_f_cnt_down)
}

/// Whether an existing session would be set anew by an unchanged row: its counters ran on long ago. The job never resets one.
pub fn has_same_keys(wanted: &Session, current: &Session) -> bool {
    wanted.dev_addr.eq_ignore_ascii_case(&current.dev_addr)
        && is_same_key(&wanted.network_session_key, &current.network_session_key)
        && is_same_key(&wanted.application_session_key, &current.application_session_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(f_cnt_up: u32, n_f_cnt_down: u32) -> Session {
        Session {
            dev_addr: "01020304".into(),
            network_session_key: Secret::new("00ff"),
            application_session_key: Secret::new("ff00"),
            f_cnt_up,
            n_f_cnt_down,
        }
    }

    #[test]
    fn a_form_that_comes_back_sets_no_session_anew_and_a_reset_does() {
        let current = session(1000, 50);
        assert!(is_same_session(&session(1000, 50), &current));
        assert!(is_same_session(&session(990, 49), &current), "two frames came while the form was open");
        assert!(!is_same_session(&session(0, 0), &current), "a reset");
        assert!(!is_same_session(&session(1200, 50), &current));
        let capitals = Session { network_session_key: Secret::new("00FF"), ..session(1000, 50) };
        assert!(is_same_session(&capitals, &current));
        let other = Session { dev_addr: "01020305".into(), ..session(1000, 50) };
        assert!(!is_same_session(&other, &current) && !has_same_keys(&other, &current));
        assert!(has_same_keys(&session(0, 0), &current));
    }
}
