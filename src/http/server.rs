use std::{net::TcpListener, sync::Arc, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, Responder, dev::Server, get, web};
use serde_json::json;

use super::Health;
use crate::metrics::Metrics;

/// Serves health and metrics until the returned server is stopped.
///
/// # Errors
/// If the listener cannot be used.
pub fn serve(listener: TcpListener, health: Arc<Health>, metrics: Metrics) -> std::io::Result<Server> {
    let health = web::Data::from(health);
    let metrics = web::Data::new(metrics);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(health.clone())
            .app_data(metrics.clone())
            .service(livez)
            .service(readyz)
            .service(healthz)
            .service(render_metrics)
            .default_service(web::to(index))
    });
    let server = server
        .workers(1)
        .backlog(128)
        .max_connections(256)
        .client_request_timeout(Duration::from_secs(5))
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
async fn render_metrics(metrics: web::Data<Metrics>) -> impl Responder {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(metrics.render())
}

async fn index() -> impl Responder {
    HttpResponse::NotFound()
        .json(json!({ "error": "not found", "paths": ["/livez", "/readyz", "/healthz", "/metrics"] }))
}
