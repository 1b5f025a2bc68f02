//! The measured servers: nginx, shunt (an async Rust proxy), the npm package and maxpool, each with
//! its configuration in its own directory.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::load::{self, Destination, Load};
use super::process::Tree;

/// A server that has not answered by then has failed.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a server may take to exit by itself.
const END_LIMIT: Duration = Duration::from_secs(5);
pub const KEY: &str = "mp-bench-key-0123456789abcdefghij";

/// A program to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    Nginx(PathBuf),
    /// The command of the crate `shunt-proxy`: hyper and reqwest on tokio.
    Shunt(PathBuf),
    /// The npm package's command.
    Node(PathBuf),
    /// The maxpool program.
    Maxpool(PathBuf),
}

/// The address of the stub, as configured in the servers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    Plain(SocketAddr),
    Tls(SocketAddr),
}

impl Upstream {
    fn url(self) -> String {
        match self {
            Upstream::Plain(address) => format!("http://{address}"),
            Upstream::Tls(address) => format!("https://localhost:{}", address.port()),
        }
    }
}

/// A running server; dropping it kills the server and all its children.
pub struct Server {
    child: Child,
    directory: PathBuf,
    pub address: SocketAddr,
    /// Time from its start to its first answer.
    pub start_up: Duration,
}

impl Server {
    pub fn start(program: &Program, upstream: Upstream, probe: &[u8]) -> io::Result<Server> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("maxpool-bench-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let authority = directory.join("ca.pem");
        fs::write(&authority, include_bytes!("../data/ca.pem"))?;
        // Freed at once for the server; nothing else takes ports here meanwhile.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = match program {
            Program::Nginx(path) => nginx(path, &directory, port, upstream)?,
            Program::Shunt(path) => shunt(path, &directory, port, upstream)?,
            Program::Node(path) | Program::Maxpool(path) => pool(path, &directory, port, upstream)?,
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &directory)
            .env("SHUNT_NO_TELEMETRY", "1")
            .env("MAXPOOL_CONFIG", directory.join("maxpool.json"))
            .env("SSL_CERT_FILE", &authority)
            .env("NODE_EXTRA_CA_CERTS", &authority)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("stderr"))?)
            .process_group(0);
        let start = Instant::now();
        let child = command.spawn()?;
        let mut server = Server {
            child,
            directory,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            start_up: Duration::ZERO,
        };
        server.wait_for_answer(probe, start)?;
        server.start_up = start.elapsed();
        Ok(server)
    }

    fn wait_for_answer(&mut self, probe: &[u8], start: Instant) -> io::Result<()> {
        let once = Load {
            request: probe.to_vec(),
            connections: 1,
            warm_up: Duration::ZERO,
            time: Duration::ZERO,
        };
        loop {
            let error = match load::run(&self.destination(), &once, || Duration::ZERO) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "it ended with {status}: {}",
                    self.complaints()
                )));
            }
            if start.elapsed() > START_LIMIT {
                return Err(io::Error::other(format!(
                    "it does not answer: {error}: {}",
                    self.complaints()
                )));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn complaints(&self) -> String {
        fs::read_to_string(self.directory.join("stderr")).unwrap_or_default()
    }

    pub fn destination(&self) -> Destination {
        Destination { address: self.address, tls: None }
    }

    pub fn tree(&self) -> Tree {
        Tree(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, Signal::TERM);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < END_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        // The server has its own process group, so this also kills any children that it left
        // behind.
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The configuration that both the npm package and maxpool read: two accounts, no network but the
/// stub, and no limits that interfere.
fn pool(path: &Path, directory: &Path, port: u16, upstream: Upstream) -> io::Result<Command> {
    let config = serde_json::json!({
        "proxy": {"host": "127.0.0.1", "port": port, "apiKey": KEY},
        "upstream": upstream.url(),
        "upstreamProxy": false,
        "updateCheck": false,
        "autoUpdate": false,
        "scheduler": {"safetyMaxActivePerAccount": 100_000, "safetyMaxGlobalActive": 100_000},
        "accounts": [
            {"name": "one", "type": "apikey", "apiKey": "key-one"},
            {"name": "two", "type": "apikey", "apiKey": "key-two"},
        ],
    });
    let file = directory.join("maxpool.json");
    fs::write(&file, config.to_string())?;
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut command = Command::new(path);
    command.arg("server");
    Ok(command)
}

/// shunt with two accounts and without any outgoing telemetry. It refuses a loopback upstream, so
/// the unspecified address is used, which leads to the same place. It does not accept the stub's
/// certificate and is therefore only measured without TLS.
fn shunt(path: &Path, directory: &Path, port: u16, upstream: Upstream) -> io::Result<Command> {
    let Upstream::Plain(address) = upstream else {
        return Err(io::Error::other("it does not trust the stub's certificate"));
    };
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let config = format!(
        "[server]
host = \"127.0.0.1\"
port = {port}
control_port = {control}
log_level = \"error\"
health_check_enabled = false
burst_rpm_limit = 0
telemetry = false
"
    );
    let accounts = ["one", "two"].map(|name| {
        format!(
            "
[[accounts]]
name = \"{name}\"
provider = \"anthropic\"
api_key = \"key-{name}\"
upstream_url = \"http://0.0.0.0:{}\"
",
            address.port()
        )
    });
    let file = directory.join("shunt.toml");
    fs::write(&file, config + &accounts.concat())?;
    let mut command = Command::new(path);
    command.args(["start", "--foreground", "--config"]).arg(&file);
    Ok(command)
}

/// nginx in its fastest configuration that buffers nothing.
fn nginx(path: &Path, directory: &Path, port: u16, upstream: Upstream) -> io::Result<Command> {
    let (scheme, server) = match upstream {
        Upstream::Plain(address) => ("http", address),
        Upstream::Tls(address) => ("https", address),
    };
    let here = directory.display();
    // Workers of a root process would lose access to their temporary files.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let config = format!(
        "daemon off; {user} worker_processes auto; pid {here}/pid; error_log {here}/stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_max_body_size 0; keepalive_requests 1000000000;
    client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
    upstream stub {{ server {server}; keepalive 128; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass {scheme}://stub; proxy_http_version 1.1; proxy_set_header Connection \"\";
            proxy_buffering off; proxy_request_buffering off;
            proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_verify on; proxy_ssl_trusted_certificate {here}/ca.pem;
        }}
    }}
}}
"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new(path);
    command.arg("-p").arg(directory).arg("-c").arg(&file);
    Ok(command)
}
