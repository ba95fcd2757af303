use std::{any::Any, net::TcpListener, sync::Arc, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, Responder, dev::Server, get, http::header, rt::net::TcpStream, web};
use serde_json::json;

use super::{
    Health, Transfers, download,
    target::{MESSAGES, UPLOADS},
    upload, uploads,
};
use crate::metrics::Metrics;

/// How long one whose request was refused may still send it: until then it can read why.
const LINGER_MAX: Duration = Duration::from_secs(5);

/// Serves health, metrics and messages until the returned server is stopped.
///
/// # Errors
/// If the listener cannot be used.
pub fn serve(listener: TcpListener, health: Arc<Health>, transfers: Transfers) -> std::io::Result<Server> {
    let stall_timeout = transfers.broker.config.stall_timeout;
    let health = web::Data::from(health);
    let metrics = web::Data::new(transfers.broker.metrics.clone());
    let transfers = web::Data::new(transfers);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(health.clone())
            .app_data(metrics.clone())
            .app_data(transfers.clone())
            .service(livez)
            .service(readyz)
            .service(healthz)
            .service(render_metrics)
            .service(
                web::resource(format!("{MESSAGES}{{rest:.*}}"))
                    .route(web::put().to(upload::put))
                    .route(web::post().to(upload::put))
                    .route(web::get().to(download::get))
                    .route(web::head().to(download::get))
                    .default_service(web::to(|| refuse_method("GET, HEAD, PUT, POST"))),
            )
            .service(
                web::resource(format!("{UPLOADS}{{id:.+}}"))
                    .route(web::get().to(uploads::get))
                    .route(web::head().to(uploads::get))
                    .route(web::delete().to(uploads::delete))
                    .default_service(web::to(|| refuse_method("GET, HEAD, DELETE"))),
            )
            .default_service(web::to(index))
    });
    let server = server
        // Transfers only pass bytes on here; health checks find a thread even if one is busy with that.
        .workers(2)
        .backlog(128)
        .max_connections(256)
        // For the head of a request: bodies have the timeout of stalls.
        .client_request_timeout(Duration::from_secs(5))
        .client_disconnect_timeout(LINGER_MAX)
        .on_connect(move |connection, _| drop_when_stalled(connection, stall_timeout))
        .disable_signals()
        .shutdown_timeout(1)
        .listen(listener)?;
    Ok(server.run())
}

#[get("/livez")]
async fn livez(health: web::Data<Health>) -> impl Responder {
    match health.why_dead() {
        None => HttpResponse::Ok().json(json!({ "live": true })),
        Some(reason) => HttpResponse::ServiceUnavailable().json(json!({ "live": false, "reasons": [reason] })),
    }
}

#[get("/readyz")]
async fn readyz(health: web::Data<Health>) -> impl Responder {
    let reasons = health.why_unready().await;
    if reasons.is_empty() {
        return HttpResponse::Ok().json(json!({ "ready": true }));
    }
    HttpResponse::ServiceUnavailable().json(json!({ "ready": false, "reasons": reasons }))
}

#[get("/healthz")]
async fn healthz(health: web::Data<Health>) -> impl Responder {
    let dead = health.why_dead();
    let mut reasons = health.why_unready().await;
    let (live, ready) = (dead.is_none(), reasons.is_empty());
    reasons.extend(dead);
    let body = json!({ "live": live, "ready": ready, "reasons": reasons, "version": env!("CARGO_PKG_VERSION") });
    if live && ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

#[get("/metrics")]
pub(super) async fn render_metrics(metrics: web::Data<Metrics>) -> impl Responder {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics.render())
}

async fn index() -> impl Responder {
    let paths = [
        "/livez",
        "/readyz",
        "/healthz",
        "/metrics",
        "/v1/messages/{subject}",
        "/v1/messages/{subject}/{file name}",
        "/v1/messages/{subject}/{sequence}",
        "/v1/messages/{subject}/last",
        "/v1/uploads/{id}",
    ];
    HttpResponse::NotFound().json(json!({ "error": "not found", "paths": paths }))
}

async fn refuse_method(allowed: &'static str) -> impl Responder {
    let text = format!("this path is for {allowed}");
    HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, allowed)).json(json!({ "error": text }))
}

/// Lets the system drop a client that takes nothing of what is sent to it for so long.
fn drop_when_stalled(connection: &dyn Any, timeout: Duration) {
    let Some(connection) = connection.downcast_ref::<TcpStream>() else { return };
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(connection, millis) {
        tracing::debug!(%error, "a client that stalls will not be dropped");
    }
}
