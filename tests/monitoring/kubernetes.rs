//! What kube-state-metrics and the kubelet tell of a small installation. There is no cluster here: names and labels are those
//! of their documentation.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A page of metrics, which can get worse.
pub(crate) struct Kubernetes {
    pub(crate) address: SocketAddr,
    is_ill: Arc<AtomicBool>,
}

impl Kubernetes {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, is_ill) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let (shown, scrapes) = (is_ill.clone(), AtomicU64::new(0));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let page = page(shown.load(Ordering::Relaxed), scrapes.fetch_add(1, Ordering::Relaxed));
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
                let answer = format!("{head}Content-Length: {}\r\n\r\n{page}", page.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, is_ill }
    }

    /// One pod crashes from now on, the autoscaler has no more of them, and a volume is nearly full.
    pub(crate) fn fall_ill(&self) {
        self.is_ill.store(true, Ordering::Relaxed);
    }
}

fn page(is_ill: bool, scrapes: u64) -> String {
    let mut page = String::new();
    let mut line = |name: &str, labels: &str, value: f64| {
        page.push_str(&format!("{name}{{namespace=\"minitoolstream\",{labels}}} {value}\n"));
    };
    let replicas = if is_ill { 10.0 } else { 3.0 };
    for role in ["ingress", "egress"] {
        let deployment = format!("deployment=\"minitoolstream-{role}\"");
        line("kube_deployment_status_replicas_available", &deployment, replicas);
        line("kube_deployment_spec_replicas", &deployment, replicas);
        let autoscaler = format!("horizontalpodautoscaler=\"minitoolstream-{role}-hpa\"");
        for (name, value) in [
            ("status_current_replicas", replicas),
            ("status_desired_replicas", replicas),
            ("spec_min_replicas", 3.0),
            ("spec_max_replicas", 10.0),
        ] {
            line(&format!("kube_horizontalpodautoscaler_{name}"), &autoscaler, value);
        }
        let pod = format!("pod=\"minitoolstream-{role}-0\"");
        let is_crashing = is_ill && role == "ingress";
        line("kube_pod_status_ready", &format!("{pod},condition=\"true\""), f64::from(!is_crashing));
        line("kube_pod_status_phase", &format!("{pod},phase=\"Running\""), 1.0);
        line("kube_pod_status_phase", &format!("{pod},phase=\"Succeeded\""), 0.0);
        let request = |resource: &str| format!("{pod},container=\"broker\",resource=\"{resource}\"");
        line("kube_pod_container_resource_requests", &request("cpu"), 0.25);
        line("kube_pod_container_resource_requests", &request("memory"), 256e6);
        let container = format!("{pod},container=\"broker\"");
        line("container_memory_working_set_bytes", &container, 64e6);
        line("container_cpu_usage_seconds_total", &container, 0.025 * f64::from(u32::try_from(scrapes).unwrap()));
    }
    let volume = "persistentvolumeclaim=\"data-tarantool-0\"";
    line("kubelet_volume_stats_capacity_bytes", volume, 10e9);
    line("kubelet_volume_stats_available_bytes", volume, if is_ill { 1e9 } else { 9e9 });
    page
}
