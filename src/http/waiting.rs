use std::net::TcpListener;

use actix_web::{App, HttpResponse, HttpServer, Responder, dev::ServerHandle, http::KeepAlive, http::header, web};
use serde_json::json;

use super::server::render_metrics;
use crate::{metrics::Metrics, store::shared::Waits};

/// What HTTP says until the stores are open, which may take as long as they are away: the process lives and is not ready. Whoever
/// restarts what is not alive would restart it for ever otherwise. Ends with the value.
pub struct Waiting(ServerHandle);

impl Waiting {
    /// Answers on a listener. [`serve`](super::serve) may take the same one over afterwards.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub fn serve(listener: TcpListener, metrics: &Metrics, waits: &Waits) -> std::io::Result<Self> {
        let (metrics, waits) = (web::Data::new(metrics.clone()), web::Data::new(waits.clone()));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(metrics.clone())
                .app_data(waits.clone())
                .route("/livez", web::get().to(live))
                .service(render_metrics)
                .default_service(web::to(unready))
        });
        let server = server
            .workers(1)
            .disable_signals()
            // No connection outlives its answer: the next request is for the broker.
            .keep_alive(KeepAlive::Disabled)
            .shutdown_timeout(1)
            .listen(listener)?
            .run();
        let handle = server.handle();
        actix::spawn(server);
        Ok(Self(handle))
    }

    /// Gives the answers that are asked for, and ends.
    pub async fn end(self) {
        self.0.stop(true).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // The order to stop is given here; its end is nobody's concern.
        drop(self.0.stop(false));
    }
}

async fn live() -> impl Responder {
    HttpResponse::Ok().json(json!({ "live": true }))
}

async fn unready(waits: web::Data<Waits>) -> impl Responder {
    let reasons = [vec!["the broker waits for its stores".to_owned()], waits.reasons()].concat();
    let body = json!({ "ready": false, "reasons": reasons });
    HttpResponse::ServiceUnavailable().insert_header((header::RETRY_AFTER, "1")).json(body)
}
