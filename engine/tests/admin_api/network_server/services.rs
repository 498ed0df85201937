//! What each call does in the world.

use chirpstack_api::api::application_service_server::{ApplicationService, ApplicationServiceServer};
use chirpstack_api::api::device_profile_service_server::{DeviceProfileService, DeviceProfileServiceServer};
use chirpstack_api::api::device_service_server::{DeviceService, DeviceServiceServer};
use chirpstack_api::api::gateway_service_server::{GatewayService, GatewayServiceServer};
use chirpstack_api::api::multicast_group_service_server::{MulticastGroupService, MulticastGroupServiceServer};
use chirpstack_api::api::tenant_service_server::{TenantService, TenantServiceServer};
use chirpstack_api::common::{Metric, MetricDataset};
use chirpstack_api::pbjson_types;
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::Router;
use uuid::Uuid;

use super::refused::*;
use super::{Group, Service, TENANT, World, api, calls};

pub fn router(service: Service) -> Router {
    Server::builder()
        .add_service(TenantServiceServer::new(service.clone()))
        .add_service(ApplicationServiceServer::new(service.clone()))
        .add_service(DeviceServiceServer::new(service.clone()))
        .add_service(DeviceProfileServiceServer::new(service.clone()))
        .add_service(GatewayServiceServer::new(service.clone()))
        .add_service(MulticastGroupServiceServer::new(service))
}

fn missing(what: &str) -> Status {
    Status::not_found(format!("Object does not exist (id: {what})"))
}

fn taken(what: &str) -> Status {
    Status::already_exists(format!("Object already exists (id: {what})"))
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

/// Three days of a metric.
fn metric(start: Option<&chirpstack_api::prost_types::Timestamp>, label: &str, data: [f32; 3]) -> Option<Metric> {
    let start = start.map_or(0, |t| t.seconds);
    let at = |day: i64| pbjson_types::Timestamp { seconds: start + day * 86_400, nanos: 0 };
    Some(Metric {
        timestamps: (0..3).map(at).collect(),
        datasets: vec![MetricDataset { label: label.to_owned(), data: data.to_vec() }],
        ..Default::default()
    })
}

impl World {
    fn check_device(&self, device: &api::Device) -> Result<(), Status> {
        if !self.applications.contains_key(&device.application_id) {
            return Err(missing(&device.application_id));
        }
        if !self.profiles.contains_key(&device.device_profile_id) {
            return Err(missing(&device.device_profile_id));
        }
        Ok(())
    }

    fn forget_device(&mut self, dev_eui: &str) -> Result<(), Status> {
        self.devices.remove(dev_eui).ok_or_else(|| missing(dev_eui))?;
        self.keys.remove(dev_eui);
        self.sessions.remove(dev_eui);
        self.queues.remove(dev_eui);
        for group in self.groups.values_mut() {
            group.devices.remove(dev_eui);
        }
        Ok(())
    }

    fn group(&mut self, id: &str) -> Result<&mut Group, Status> {
        self.groups.get_mut(id).ok_or_else(|| missing(id))
    }
}

impl TenantService for Service {
    calls! { "TenantService";
        list(api::ListTenantsRequest) -> api::ListTenantsResponse = |_, _| {
            let tenant = |id: &str, name: &str| api::TenantListItem {
                id: id.to_owned(), name: name.to_owned(), ..Default::default()
            };
            Ok(api::ListTenantsResponse {
                total_count: 2,
                result: vec![tenant("01020304-0000-4000-8000-000000000000", "Others"), tenant(TENANT, "OS2IoT")],
            })
        };
    }
    tenant_service_refuses!();
}

impl ApplicationService for Service {
    calls! { "ApplicationService";
        create(api::CreateApplicationRequest) -> api::CreateApplicationResponse = |world, message| {
            let id = new_id();
            let application = api::Application { id: id.clone(), ..message.application.unwrap() };
            assert_eq!(application.tenant_id, TENANT);
            world.applications.insert(id.clone(), application);
            Ok(api::CreateApplicationResponse { id })
        };
        get(api::GetApplicationRequest) -> api::GetApplicationResponse = |world, message| {
            let application = Some(world.applications.get(&message.id).cloned().ok_or_else(|| missing(&message.id))?);
            Ok(api::GetApplicationResponse { application, ..Default::default() })
        };
        delete(api::DeleteApplicationRequest) -> () = |world, message| {
            world.applications.remove(&message.id).ok_or_else(|| missing(&message.id))?;
            let of_it = |(eui, device): (&String, &api::Device)| {
                (device.application_id == message.id).then(|| eui.clone())
            };
            let devices: Vec<String> = world.devices.iter().filter_map(of_it).collect();
            world.groups.retain(|_, group| group.group.application_id != message.id);
            devices.iter().try_for_each(|eui| world.forget_device(eui))
        };
        list(api::ListApplicationsRequest) -> api::ListApplicationsResponse = |world, message| {
            let found = world.applications.values().filter(|a| a.name.contains(&message.search));
            let result: Vec<_> = found
                .map(|a| api::ApplicationListItem { id: a.id.clone(), name: a.name.clone(), ..Default::default() })
                .collect();
            Ok(api::ListApplicationsResponse { total_count: result.len() as u32, result })
        };
    }
    application_service_refuses!();
}

impl DeviceService for Service {
    calls! { "DeviceService";
        create(api::CreateDeviceRequest) -> () = |world, message| {
            let device = message.device.unwrap();
            world.check_device(&device)?;
            if world.devices.contains_key(&device.dev_eui) {
                return Err(taken(&device.dev_eui));
            }
            world.devices.insert(device.dev_eui.clone(), device);
            Ok(())
        };
        get(api::GetDeviceRequest) -> api::GetDeviceResponse = |world, message| {
            let device = Some(world.devices.get(&message.dev_eui).cloned().ok_or_else(|| missing(&message.dev_eui))?);
            let device_status = world.statuses.get(&message.dev_eui).copied();
            Ok(api::GetDeviceResponse { device, device_status, ..Default::default() })
        };
        update(api::UpdateDeviceRequest) -> () = |world, message| {
            let device = message.device.unwrap();
            world.check_device(&device)?;
            let known = world.devices.get_mut(&device.dev_eui).ok_or_else(|| missing(&device.dev_eui))?;
            *known = device;
            Ok(())
        };
        delete(api::DeleteDeviceRequest) -> () = |world, message| world.forget_device(&message.dev_eui);
        list(api::ListDevicesRequest) -> api::ListDevicesResponse = |world, message| {
            if Uuid::parse_str(&message.application_id).is_err() {
                return Err(Status::internal("invalid length: found 0"));
            }
            let members = &world.group(&message.multicast_group_id)?.devices;
            let result: Vec<_> = members
                .iter()
                .map(|eui| api::DeviceListItem { dev_eui: eui.clone(), ..Default::default() })
                .collect();
            Ok(api::ListDevicesResponse { total_count: result.len() as u32, result })
        };
        create_keys(api::CreateDeviceKeysRequest) -> () = |world, message| {
            let keys = message.device_keys.unwrap();
            if !world.devices.contains_key(&keys.dev_eui) {
                return Err(missing(&keys.dev_eui));
            }
            if world.keys.contains_key(&keys.dev_eui) {
                return Err(Status::internal("duplicate key value violates unique constraint \"device_keys_pkey\""));
            }
            world.keys.insert(keys.dev_eui.clone(), keys);
            Ok(())
        };
        get_keys(api::GetDeviceKeysRequest) -> api::GetDeviceKeysResponse = |world, message| {
            let keys = Some(world.keys.get(&message.dev_eui).cloned().ok_or_else(|| missing(&message.dev_eui))?);
            Ok(api::GetDeviceKeysResponse { device_keys: keys, ..Default::default() })
        };
        update_keys(api::UpdateDeviceKeysRequest) -> () = |world, message| {
            let keys = message.device_keys.unwrap();
            let known = world.keys.get_mut(&keys.dev_eui).ok_or_else(|| missing(&keys.dev_eui))?;
            *known = keys;
            Ok(())
        };
        activate(api::ActivateDeviceRequest) -> () = |world, message| {
            let session = message.device_activation.unwrap();
            if !world.devices.contains_key(&session.dev_eui) {
                return Err(missing(&session.dev_eui));
            }
            world.sessions.insert(session.dev_eui.clone(), session);
            Ok(())
        };
        get_activation(api::GetDeviceActivationRequest) -> api::GetDeviceActivationResponse = |world, message| {
            Ok(api::GetDeviceActivationResponse {
                device_activation: world.sessions.get(&message.dev_eui).cloned(),
                ..Default::default()
            })
        };
        get_link_metrics(api::GetDeviceLinkMetricsRequest) -> api::GetDeviceLinkMetricsResponse = |_, message| {
            let start = message.start.as_ref();
            Ok(api::GetDeviceLinkMetricsResponse {
                gw_rssi: metric(start, "rssi", [0.0, -97.0, -61.5]),
                gw_snr: metric(start, "snr", [0.0, 7.5, -2.0]),
                rx_packets_per_dr: metric(start, "5", [0.0, 3.0, 0.0]),
                ..Default::default()
            })
        };
        enqueue(api::EnqueueDeviceQueueItemRequest) -> api::EnqueueDeviceQueueItemResponse = |world, message| {
            let item = message.queue_item.unwrap();
            if !world.devices.contains_key(&item.dev_eui) {
                return Err(missing(&item.dev_eui));
            }
            let id = new_id();
            let item = api::DeviceQueueItem { id: id.clone(), ..item };
            world.queues.entry(item.dev_eui.clone()).or_default().push(item);
            Ok(api::EnqueueDeviceQueueItemResponse { id })
        };
        flush_queue(api::FlushDeviceQueueRequest) -> () = |world, message| {
            world.queues.remove(&message.dev_eui);
            Ok(())
        };
    }
    device_service_refuses!();
}

impl DeviceProfileService for Service {
    calls! { "DeviceProfileService";
        create(api::CreateDeviceProfileRequest) -> api::CreateDeviceProfileResponse = |world, message| {
            let id = new_id();
            let profile = api::DeviceProfile { id: id.clone(), ..message.device_profile.unwrap() };
            assert_eq!(profile.tenant_id, TENANT);
            world.profiles.insert(id.clone(), profile);
            Ok(api::CreateDeviceProfileResponse { id })
        };
        get(api::GetDeviceProfileRequest) -> api::GetDeviceProfileResponse = |world, message| {
            let profile = Some(world.profiles.get(&message.id).cloned().ok_or_else(|| missing(&message.id))?);
            Ok(api::GetDeviceProfileResponse { device_profile: profile, ..Default::default() })
        };
        update(api::UpdateDeviceProfileRequest) -> () = |world, message| {
            let profile = message.device_profile.unwrap();
            let known = world.profiles.get_mut(&profile.id).ok_or_else(|| missing(&profile.id))?;
            *known = profile;
            Ok(())
        };
        delete(api::DeleteDeviceProfileRequest) -> () = |world, message| {
            world.profiles.remove(&message.id).map(drop).ok_or_else(|| missing(&message.id))
        };
        list(api::ListDeviceProfilesRequest) -> api::ListDeviceProfilesResponse = |world, message| {
            let result: Vec<_> = world
                .profiles
                .values()
                .skip(message.offset as usize)
                .take(message.limit as usize)
                .map(|p| api::DeviceProfileListItem { id: p.id.clone(), name: p.name.clone(), ..Default::default() })
                .collect();
            Ok(api::ListDeviceProfilesResponse { total_count: world.profiles.len() as u32, result })
        };
        list_adr_algorithms(()) -> api::ListDeviceProfileAdrAlgorithmsResponse = |_, ()| {
            let default = api::AdrAlgorithmListItem { id: "default".into(), name: "Default ADR algorithm".into() };
            Ok(api::ListDeviceProfileAdrAlgorithmsResponse { total_count: 1, result: vec![default] })
        };
    }
    device_profile_service_refuses!();
}

impl GatewayService for Service {
    calls! { "GatewayService";
        create(api::CreateGatewayRequest) -> () = |world, message| {
            let gateway = message.gateway.unwrap();
            assert_eq!(gateway.tenant_id, TENANT);
            if world.gateways.contains_key(&gateway.gateway_id) {
                return Err(taken(&gateway.gateway_id));
            }
            world.gateways.insert(gateway.gateway_id.clone(), gateway);
            Ok(())
        };
        get(api::GetGatewayRequest) -> api::GetGatewayResponse = |world, message| {
            let known = world.gateways.get(&message.gateway_id).cloned();
            let gateway = Some(known.ok_or_else(|| missing(&message.gateway_id))?);
            Ok(api::GetGatewayResponse { gateway, ..Default::default() })
        };
        update(api::UpdateGatewayRequest) -> () = |world, message| {
            let gateway = message.gateway.unwrap();
            if gateway.downlink_priority == 0 {
                return Err(Status::invalid_argument("Validation error: downlink_priority must be > 0"));
            }
            let known = world.gateways.get_mut(&gateway.gateway_id).ok_or_else(|| missing(&gateway.gateway_id))?;
            *known = gateway;
            Ok(())
        };
        delete(api::DeleteGatewayRequest) -> () = |world, message| {
            world.gateways.remove(&message.gateway_id).map(drop).ok_or_else(|| missing(&message.gateway_id))
        };
        list(api::ListGatewaysRequest) -> api::ListGatewaysResponse = |world, message| {
            let result: Vec<_> = world
                .gateways
                .values()
                .skip(message.offset as usize)
                .take(message.limit as usize)
                .map(|g| api::GatewayListItem {
                    gateway_id: g.gateway_id.clone(),
                    name: g.name.clone(),
                    last_seen_at: g.metadata.get("last_seen").map(|seconds| chirpstack_api::prost_types::Timestamp {
                        seconds: seconds.parse().unwrap(),
                        nanos: 0,
                    }),
                    ..Default::default()
                })
                .collect();
            Ok(api::ListGatewaysResponse { total_count: world.gateways.len() as u32, result })
        };
        get_metrics(api::GetGatewayMetricsRequest) -> api::GetGatewayMetricsResponse = |world, message| {
            if !world.gateways.contains_key(&message.gateway_id) {
                return Err(missing(&message.gateway_id));
            }
            let start = message.start.as_ref();
            Ok(api::GetGatewayMetricsResponse {
                rx_packets: metric(start, "rx_count", [5.0, 6.0, 7.0]),
                tx_packets: metric(start, "tx_count", [1.0, 0.0, 2.0]),
                ..Default::default()
            })
        };
    }
    gateway_service_refuses!();
}

impl MulticastGroupService for Service {
    calls! { "MulticastGroupService";
        create(api::CreateMulticastGroupRequest) -> api::CreateMulticastGroupResponse = |world, message| {
            let group = message.multicast_group.unwrap();
            if !world.applications.contains_key(&group.application_id) {
                return Err(missing(&group.application_id));
            }
            let id = new_id();
            let group = Group { group: api::MulticastGroup { id: id.clone(), ..group }, ..Group::default() };
            world.groups.insert(id.clone(), group);
            Ok(api::CreateMulticastGroupResponse { id })
        };
        get(api::GetMulticastGroupRequest) -> api::GetMulticastGroupResponse = |world, message| {
            let multicast_group = Some(world.group(&message.id)?.group.clone());
            Ok(api::GetMulticastGroupResponse { multicast_group, ..Default::default() })
        };
        update(api::UpdateMulticastGroupRequest) -> () = |world, message| {
            let group = message.multicast_group.unwrap();
            world.group(&group.id)?.group = group.clone();
            Ok(())
        };
        delete(api::DeleteMulticastGroupRequest) -> () = |world, message| {
            world.groups.remove(&message.id).map(drop).ok_or_else(|| missing(&message.id))
        };
        add_device(api::AddDeviceToMulticastGroupRequest) -> () = |world, message| {
            let device = world.devices.get(&message.dev_eui).cloned().ok_or_else(|| missing(&message.dev_eui))?;
            let group = world.group(&message.multicast_group_id)?;
            if group.group.application_id != device.application_id {
                return Err(missing(&message.dev_eui));
            }
            group.devices.insert(message.dev_eui);
            Ok(())
        };
        remove_device(api::RemoveDeviceFromMulticastGroupRequest) -> () = |world, message| {
            world.group(&message.multicast_group_id)?.devices.remove(&message.dev_eui);
            Ok(())
        };
        enqueue(api::EnqueueMulticastGroupQueueItemRequest) -> api::EnqueueMulticastGroupQueueItemResponse =
            |world, message| {
                let item = message.queue_item.unwrap();
                let group = world.group(&item.multicast_group_id)?;
                let f_cnt = group.group.f_cnt;
                group.group.f_cnt += 1;
                group.queue.push(api::MulticastGroupQueueItem { f_cnt, ..item });
                Ok(api::EnqueueMulticastGroupQueueItemResponse { f_cnt })
            };
        flush_queue(api::FlushMulticastGroupQueueRequest) -> () = |world, message| {
            world.group(&message.multicast_group_id)?.queue.clear();
            Ok(())
        };
        list_queue(api::ListMulticastGroupQueueRequest) -> api::ListMulticastGroupQueueResponse = |world, message| {
            let items = world.group(&message.multicast_group_id)?.queue.clone();
            Ok(api::ListMulticastGroupQueueResponse { items })
        };
    }
    multicast_group_service_refuses!();
}
