//! Calls of ChirpStack's that Sluse does not make: they are refused, so that a test notices one.

macro_rules! tenant_service_refuses {
    () => {
        calls! { "TenantService";
            create(api::CreateTenantRequest) -> api::CreateTenantResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get(api::GetTenantRequest) -> api::GetTenantResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update(api::UpdateTenantRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete(api::DeleteTenantRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            list_by_dev_addr_prefix_overlap(api::ListTenantsByDevAddrPrefixOverlapRequest) -> api::ListTenantsResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            add_user(api::AddTenantUserRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_user(api::GetTenantUserRequest) -> api::GetTenantUserResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_user(api::UpdateTenantUserRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_user(api::DeleteTenantUserRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            list_users(api::ListTenantUsersRequest) -> api::ListTenantUsersResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
        }
    };
}
pub(super) use tenant_service_refuses;

macro_rules! application_service_refuses {
    () => {
        calls! { "ApplicationService";
            update(api::UpdateApplicationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            list_integrations(api::ListIntegrationsRequest) -> api::ListIntegrationsResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_http_integration(api::CreateHttpIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_http_integration(api::GetHttpIntegrationRequest) -> api::GetHttpIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_http_integration(api::UpdateHttpIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_http_integration(api::DeleteHttpIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_influx_db_integration(api::CreateInfluxDbIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_influx_db_integration(api::GetInfluxDbIntegrationRequest) -> api::GetInfluxDbIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_influx_db_integration(api::UpdateInfluxDbIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_influx_db_integration(api::DeleteInfluxDbIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_things_board_integration(api::CreateThingsBoardIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_things_board_integration(api::GetThingsBoardIntegrationRequest) -> api::GetThingsBoardIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_things_board_integration(api::UpdateThingsBoardIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_things_board_integration(api::DeleteThingsBoardIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_my_devices_integration(api::CreateMyDevicesIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_my_devices_integration(api::GetMyDevicesIntegrationRequest) -> api::GetMyDevicesIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_my_devices_integration(api::UpdateMyDevicesIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_my_devices_integration(api::DeleteMyDevicesIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_gcp_pub_sub_integration(api::CreateGcpPubSubIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_gcp_pub_sub_integration(api::GetGcpPubSubIntegrationRequest) -> api::GetGcpPubSubIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_gcp_pub_sub_integration(api::UpdateGcpPubSubIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_gcp_pub_sub_integration(api::DeleteGcpPubSubIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_aws_sns_integration(api::CreateAwsSnsIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_aws_sns_integration(api::GetAwsSnsIntegrationRequest) -> api::GetAwsSnsIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_aws_sns_integration(api::UpdateAwsSnsIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_aws_sns_integration(api::DeleteAwsSnsIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_azure_service_bus_integration(api::CreateAzureServiceBusIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_azure_service_bus_integration(api::GetAzureServiceBusIntegrationRequest) -> api::GetAzureServiceBusIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_azure_service_bus_integration(api::UpdateAzureServiceBusIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_azure_service_bus_integration(api::DeleteAzureServiceBusIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_pilot_things_integration(api::CreatePilotThingsIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_pilot_things_integration(api::GetPilotThingsIntegrationRequest) -> api::GetPilotThingsIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_pilot_things_integration(api::UpdatePilotThingsIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_pilot_things_integration(api::DeletePilotThingsIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_ifttt_integration(api::CreateIftttIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_ifttt_integration(api::GetIftttIntegrationRequest) -> api::GetIftttIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_ifttt_integration(api::UpdateIftttIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_ifttt_integration(api::DeleteIftttIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            create_blynk_integration(api::CreateBlynkIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_blynk_integration(api::GetBlynkIntegrationRequest) -> api::GetBlynkIntegrationResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_blynk_integration(api::UpdateBlynkIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_blynk_integration(api::DeleteBlynkIntegrationRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            generate_mqtt_integration_client_certificate(api::GenerateMqttIntegrationClientCertificateRequest) -> api::GenerateMqttIntegrationClientCertificateResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            list_device_profiles(api::ListApplicationDeviceProfilesRequest) -> api::ListApplicationDeviceProfilesResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            list_device_tags(api::ListApplicationDeviceTagsRequest) -> api::ListApplicationDeviceTagsResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
        }
    };
}
pub(super) use application_service_refuses;

macro_rules! device_service_refuses {
    () => {
        calls! { "DeviceService";
            delete_keys(api::DeleteDeviceKeysRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            flush_dev_nonces(api::FlushDevNoncesRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            deactivate(api::DeactivateDeviceRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_random_dev_addr(api::GetRandomDevAddrRequest) -> api::GetRandomDevAddrResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_metrics(api::GetDeviceMetricsRequest) -> api::GetDeviceMetricsResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_queue(api::GetDeviceQueueItemsRequest) -> api::GetDeviceQueueItemsResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_next_f_cnt_down(api::GetDeviceNextFCntDownRequest) -> api::GetDeviceNextFCntDownResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
        }
    };
}
pub(super) use device_service_refuses;

macro_rules! device_profile_service_refuses {
    () => {
        calls! { "DeviceProfileService";
            get_by_profile_id(api::GetDeviceProfileByProfileIdRequest) -> api::GetDeviceProfileByProfileIdResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            list_vendors(api::ListDeviceProfileVendorsRequest) -> api::ListDeviceProfileVendorsResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_vendor(api::GetDeviceProfileVendorRequest) -> api::GetDeviceProfileVendorResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_vendor(api::DeleteDeviceProfileVendorRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            list_devices(api::ListDeviceProfileDevicesRequest) -> api::ListDeviceProfileDevicesResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_device(api::GetDeviceProfileDeviceRequest) -> api::GetDeviceProfileDeviceResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_device(api::DeleteDeviceProfileDeviceRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
        }
    };
}
pub(super) use device_profile_service_refuses;

macro_rules! gateway_service_refuses {
    () => {
        calls! { "GatewayService";
            generate_client_certificate(api::GenerateGatewayClientCertificateRequest) -> api::GenerateGatewayClientCertificateResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_duty_cycle_metrics(api::GetGatewayDutyCycleMetricsRequest) -> api::GetGatewayDutyCycleMetricsResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            get_relay_gateway(api::GetRelayGatewayRequest) -> api::GetRelayGatewayResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            list_relay_gateways(api::ListRelayGatewaysRequest) -> api::ListRelayGatewaysResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            update_relay_gateway(api::UpdateRelayGatewayRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            delete_relay_gateway(api::DeleteRelayGatewayRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
        }
    };
}
pub(super) use gateway_service_refuses;

macro_rules! multicast_group_service_refuses {
    () => {
        calls! { "MulticastGroupService";
            list(api::ListMulticastGroupsRequest) -> api::ListMulticastGroupsResponse = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            add_gateway(api::AddGatewayToMulticastGroupRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
            remove_gateway(api::RemoveGatewayFromMulticastGroupRequest) -> () = |_, _| Err(tonic::Status::unimplemented("not called by Sluse"));
        }
    };
}
pub(super) use multicast_group_service_refuses;
