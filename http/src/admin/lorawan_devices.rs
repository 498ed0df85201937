//! Radio devices with a network server behind them: registering, changing, moving and showing them. Without one they are rows alone,
//! and nothing here is called.
//!
//! The order of a write is [`crate::network`]'s: note, network server, row, note away. A device that ChirpStack has already is
//! taken over only in its application's own ChirpStack application; anybody else's is "in use".

use std::time::Duration;

use chrono::{Days, Utc};
use futures_util::future::join;
use serde_json::{Map, Value, json};
use sluse_schema::id::DevEui;
use sluse_schema::policy::{Permit, Resource};
use sluse_schema::port::NetworkServer;
use sluse_schema::port::admin::device::{DeviceFields, DeviceRow, NewRoute, StoredState};
use sluse_schema::port::admin::lorawan::{NetworkObject, NetworkTask};
use sluse_schema::port::admin::{AdminError, ChangedBy};
use sluse_schema::port::network_server::{KnownDevice, NetworkServerError, Session};
use tokio::time::timeout;

use super::device_profiles;
use super::devices::{device_error, of_store};
use super::view;
use crate::context::AppState;
use crate::error::{ApiResult, code};
use crate::network::device::{Activation, Registration};
use crate::network::error::device_refusal;
use crate::network::{self, DUE_IN_S};
use crate::validate::FieldError;

/// How long an answer waits for what ChirpStack knows of a device.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);

/// Who writes what, and where.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    pub state: &'a AppState,
    pub server: &'a dyn NetworkServer,
    pub by: &'a ChangedBy,
}

fn in_use() -> crate::error::ApiError {
    device_error(code::ID_INVALID_OR_ALREADY_IN_USE)
}

impl Writing<'_> {
    /// Fills in what belongs to the network server: its application and the profile's name.
    async fn prepare(&self, permit: &Permit, fields: &mut DeviceFields) -> ApiResult<Registration> {
        let settings = fields.settings.get("lorawanSettings");
        let profile = settings.and_then(|s| s.get("deviceProfileID")).and_then(Value::as_str).map(str::to_owned);
        let Some(profile) = profile else {
            let error = FieldError::new("deviceProfileID", None)
                .failing("isUuid", "deviceProfileID must be a UUID")
                .failing("isString", "deviceProfileID must be a string");
            return Err(FieldError::new("lorawanSettings", None).with_children(vec![error]).into_api_error());
        };
        let Resource::Application { organization, .. } = permit.resource() else {
            return Err(device_error(code::APPLICATION_DOES_NOT_EXIST));
        };
        let profile = device_profiles::usable(self.state, &profile, *organization)
            .await?
            .ok_or_else(|| device_error(code::ID_DOES_NOT_EXIST))?;
        let application =
            network::ensure_application(self.state.admin(), self.server, permit, self.by, fields.application).await?;
        fields.settings.insert("deviceProfileName".to_owned(), profile.name.into());
        fields.settings.insert("chirpstackApplicationId".to_owned(), application.into());
        Registration::of(fields).ok_or_else(|| device_error(code::FAILED_TO_CREATE_OR_UPDATE_IOT_DEVICE))
    }

    async fn note(&self, dev_eui: DevEui) -> ApiResult<NetworkTask> {
        Ok(self.state.admin().note_network_task(NetworkObject::Device, &dev_eui.to_string(), DUE_IN_S).await?)
    }

    async fn settle(&self, task: &NetworkTask) {
        network::settle(self.state.admin(), self.server, task).await;
    }

    /// After a write that the network server did not take: what was written of it goes again, what another holds is left alone.
    async fn undo(&self, task: &NetworkTask, error: &NetworkServerError) {
        if *error == NetworkServerError::AlreadyExists && !task.is_deletion {
            network::finish(self.state.admin(), task).await;
        } else {
            self.settle(task).await;
        }
    }

    /// Writes a device that has no row yet into the network server.
    async fn register(&self, registration: &Registration, task: &NetworkTask) -> Result<(), NetworkServerError> {
        let device = &registration.device;
        match self.server.create_device(device).await {
            Err(NetworkServerError::AlreadyExists) => {
                let known = self.server.device(device.dev_eui).await?;
                if task.is_deletion {
                    // Deleted here, and not there yet.
                    self.server.delete_device(device.dev_eui).await?;
                    self.server.create_device(device).await?;
                } else if known.is_some_and(|known| known.device.application == device.application) {
                    self.server.update_device(device).await?;
                } else {
                    return Err(NetworkServerError::AlreadyExists);
                }
            }
            other => other?,
        }
        registration.push_activation(self.server).await
    }

    /// Registers a new device in both.
    pub async fn create(&self, permit: &Permit, mut fields: DeviceFields) -> ApiResult<DeviceRow> {
        let admin = self.state.admin();
        let registration = self.prepare(permit, &mut fields).await?;
        let dev_eui = registration.device.dev_eui;
        if admin.device_by_eui(dev_eui).await?.is_some() {
            return Err(in_use());
        }
        let task = self.note(dev_eui).await?;
        if let Err(error) = self.register(&registration, &task).await {
            self.undo(&task, &error).await;
            return Err(device_refusal(error));
        }
        match admin.create_device(permit, self.by, &fields).await {
            Ok(row) => {
                network::finish(admin, &task).await;
                Ok(row)
            }
            Err(error) => {
                self.settle(&task).await;
                Err(of_store(error))
            }
        }
    }

    /// Changes a device in both. `target_permit` is for the application that it is to be in.
    pub async fn update(
        &self,
        permit: &Permit,
        target_permit: &Permit,
        stored: &DeviceRow,
        mut fields: DeviceFields,
    ) -> ApiResult<DeviceRow> {
        let registration = self.prepare(target_permit, &mut fields).await?;
        self.write(stored, &registration, async || {
            self.state.admin().update_device(permit, Some(target_permit), self.by, stored.id, &fields).await
        })
        .await
    }

    /// Moves a device to another application in both.
    pub async fn relocate(
        &self,
        permit: &Permit,
        target_permit: &Permit,
        stored: &DeviceRow,
        mut fields: DeviceFields,
        routes: &[NewRoute],
    ) -> ApiResult<DeviceRow> {
        let registration = self.prepare(target_permit, &mut fields).await?;
        // Moving a device is no wish about its session.
        let registration = Registration { activation: Activation::None, ..registration };
        self.write(stored, &registration, async || {
            self.state.admin().move_device(permit, target_permit, self.by, stored.id, &fields, routes).await
        })
        .await
    }

    /// The network server first, then the row; what fails is brought in line with the row as it is.
    async fn write(
        &self,
        stored: &DeviceRow,
        registration: &Registration,
        write_row: impl AsyncFnOnce() -> Result<DeviceRow, AdminError>,
    ) -> ApiResult<DeviceRow> {
        let admin = self.state.admin();
        let dev_eui = registration.device.dev_eui;
        let before = stored.fields.dev_eui.filter(|before| *before != dev_eui);
        let is_new = before.is_some() || !stored.fields.settings.contains_key("chirpstackApplicationId");
        if is_new && admin.device_by_eui(dev_eui).await?.is_some_and(|other| other.id != stored.id) {
            return Err(in_use());
        }
        let task = self.note(dev_eui).await?;
        let old = match before {
            Some(before) => Some(self.note(before).await?),
            None => None,
        };
        let pushed = if is_new {
            self.register(registration, &task).await
        } else {
            registration.push(self.server).await.map(drop)
        };
        if let Err(error) = pushed {
            self.undo(&task, &error).await;
            if let Some(old) = &old {
                network::finish(admin, old).await;
            }
            return Err(device_refusal(error));
        }
        match write_row().await {
            Ok(row) => {
                network::finish(admin, &task).await;
                if let Some(old) = &old {
                    // No row has it any more: it goes there too.
                    self.settle(old).await;
                }
                Ok(row)
            }
            Err(error) => {
                self.settle(&task).await;
                if let Some(old) = &old {
                    network::finish(admin, old).await;
                }
                Err(of_store(error))
            }
        }
    }
}

/// After a device's row was deleted: ChirpStack's goes too, at once if it can, and otherwise later.
pub async fn deleted(state: &AppState, row: &DeviceRow) {
    if let Some(dev_eui) = row.fields.dev_eui {
        super::gateways::settle_deletion(state, NetworkObject::Device, &dev_eui.to_string()).await;
    }
}

/// What ChirpStack knows of a device now; nothing when it does not answer in time.
async fn known(state: &AppState, row: &DeviceRow) -> Option<(KnownDevice, Option<Session>)> {
    let (server, dev_eui) = (state.network()?, row.fields.dev_eui?);
    let is_abp = row.fields.settings.get("lorawanSettings")?.get("activationType")? == "ABP";
    let session = async { if is_abp { server.session(dev_eui).await } else { Ok(None) } };
    match timeout(KNOWN_WITHIN, join(server.device(dev_eui), session)).await {
        Ok((Ok(Some(device)), Ok(session))) => Some((device, session)),
        Ok((device, session)) => {
            let error = device.err().or(session.err());
            tracing::debug!(?error, %dev_eui, "a device is shown as its row says");
            None
        }
        Err(_) => None,
    }
}

/// Adds to `lorawanSettings` what ChirpStack knows now, or else what the device last reported.
pub async fn enrich(state: &AppState, row: &DeviceRow, stored: Option<&StoredState>, settings: &mut Value) {
    let Some(settings) = settings.as_object_mut() else { return };
    let mut status = stored.map(|s| (s.link.battery_level_percent, s.link.margin_db)).unwrap_or_default();
    if let Some((device, session)) = known(state, row).await {
        settings.insert("deviceProfileID".to_owned(), device.device.profile.into());
        settings.insert("isDisabled".to_owned(), device.device.is_disabled.into());
        settings.insert("skipFCntCheck".to_owned(), device.device.skips_f_cnt_check.into());
        if let Some(session) = session {
            settings.insert("devAddr".to_owned(), session.dev_addr.into());
            settings.insert("fCntUp".to_owned(), session.f_cnt_up.into());
            settings.insert("nFCntDown".to_owned(), session.n_f_cnt_down.into());
        }
        if let Some(known) = device.status {
            status = (known.battery_level_percent, Some(known.margin_db));
        }
    }
    add_status(settings, status.0, status.1);
}

fn add_status(settings: &mut Map<String, Value>, battery_level_percent: Option<f32>, margin_db: Option<i32>) {
    if let Some(percent) = battery_level_percent {
        settings.insert("deviceStatusBattery".to_owned(), json!(percent));
    }
    if let Some(margin) = margin_db {
        settings.insert("deviceStatusMargin".to_owned(), json!(margin));
    }
}

/// Link figures per day, as ChirpStack counts them; none when it cannot be asked.
pub async fn stats(state: &AppState, row: &DeviceRow) -> Value {
    let (Some(server), Some(dev_eui)) = (state.network(), row.fields.dev_eui) else { return json!([]) };
    let from = Utc::now().date_naive() - Days::new(u64::from(state.config.stats_days));
    match server.link_days(dev_eui, from).await {
        Ok(days) => days
            .iter()
            .map(|day| {
                json!({
                    "timestamp": view::instant(day.at),
                    "rssi": day.rssi_dbm,
                    "snr": day.snr_db,
                    "rxPacketsPerDr": day.num_packets_by_dr,
                })
            })
            .collect(),
        Err(error) => {
            tracing::debug!(%error, device = row.id.0, "no link figures from chirpstack");
            json!([])
        }
    }
}
