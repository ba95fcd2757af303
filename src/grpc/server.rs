//! Serves the API on a listener until told to stop.

use std::{pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use minitoolstream_proto::{
    FILE_DESCRIPTOR_SET, admin_service_server::AdminServiceServer, consumer_service_server::ConsumerServiceServer,
    egress_service_server::EgressServiceServer, ingress_service_server::IngressServiceServer,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_stream::StreamExt;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    Broker, admin::Admin, connection::accept, consumers::Consumers, egress::Egress, inflow::Watch, ingress::Ingress,
};

use crate::config::Role;

/// HTTP/2 windows: what a client may send before it is read, of a stream and of a connection.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Largest HTTP/2 frame taken: measured, large messages come in half as fast again as with the default of 16 KiB.
const FRAME_MAX: u32 = 256 << 10;

/// Room for the fields of a message besides its data, and of a frame beside its messages.
const FRAMING: usize = 1 << 20;

/// Half-open connections are found after at most the sum of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves all services until the broker drains, then lets calls under way end. The caller bounds how long that may
/// take: a silent client can hold its connection open. Dropped, it cuts all connections.
///
/// # Errors
/// If the services cannot be described.
pub async fn serve(
    broker: Broker,
    listener: TcpListener,
    slots: Arc<Semaphore>,
) -> Result<(), tonic_reflection::server::Error> {
    let decode_max = broker.config.message_max.as_usize().saturating_add(FRAMING);
    let watch = Watch { message_max: decode_max, stall_timeout: broker.config.stall_timeout };
    let streams = u32::try_from(broker.config.streams_per_connection).unwrap_or(u32::MAX);
    let (health, health_service) = tonic_health::server::health_reporter();
    announce(&health, broker.config.role).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = Routes::builder();
    let role = broker.config.role;
    if role != Role::Egress {
        routes.add_service(IngressServiceServer::new(Ingress(broker.clone())).max_decoding_message_size(usize::MAX));
    }
    if role != Role::Ingress {
        routes.add_service(EgressServiceServer::new(Egress(broker.clone())).max_encoding_message_size(usize::MAX));
        routes.add_service(ConsumerServiceServer::new(Consumers(broker.clone())));
    }
    routes.add_service(AdminServiceServer::new(Admin(broker.clone())));
    routes.add_service(health_service);
    routes.add_service(reflection().build_v1()?);
    routes.add_service(reflection().build_v1alpha()?);
    let routes = routes.routes().prepare();
    let draining = broker.draining.clone();
    let mut connections = JoinSet::new();
    {
        // The listener is closed before connections are waited for.
        let mut accepted = pin!(accept(listener, slots, broker));
        loop {
            tokio::select! {
                () = draining.cancelled() => break,
                Some(connection) = accepted.next() => {
                    connections.spawn(connection.serve(http2(streams), routes.clone(), watch));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
    withdraw(&health).await;
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// How connections speak HTTP/2, with so many calls at a time.
fn http2(streams: u32) -> Builder<TokioExecutor> {
    let mut http2 = Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        // A client may cancel all of its calls at once, before they were looked at, and open and cancel as many again.
        .max_pending_accept_reset_streams(2 * streams as usize)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    http2
}

async fn announce(health: &HealthReporter, role: Role) {
    if role != Role::Egress {
        health.set_serving::<IngressServiceServer<Ingress>>().await;
    }
    if role != Role::Ingress {
        health.set_serving::<EgressServiceServer<Egress>>().await;
    }
}

async fn withdraw(health: &HealthReporter) {
    health.set_not_serving::<IngressServiceServer<Ingress>>().await;
    health.set_not_serving::<EgressServiceServer<Egress>>().await;
    health.set_service_status("", ServingStatus::NotServing).await;
}
