//! `service`: prints a supervisor's file for this user, this program file and this config.
//!
//! The server never needs root. If it ran as root, it would leave files in the user's home that the
//! user cannot change, among them the config with every credential. If a supervisor starts as root,
//! the file names the user that it must switch to.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Context;
use super::args::Supervisor;
use super::env::quoted;
use crate::config::Config;
use crate::error::{Error, Result, reason};

/// `service`.
pub(super) fn print(context: &mut Context<'_>, supervisor: Supervisor) -> Result<()> {
    let config = context.config()?;
    let facts = Facts::of(context, &config)?;
    let text = match supervisor {
        Supervisor::Systemd => facts.systemd(),
        Supervisor::Socket => facts.socket(&config)?,
        Supervisor::Runit => facts.runit(),
        Supervisor::Supervisord => facts.supervisord(),
        Supervisor::Launchd => facts.launchd(),
    };
    context.out.result(&text);
    Ok(())
}

/// The facts in such a file.
struct Facts {
    program: String,
    config: String,
    home: String,
    user: String,
    /// Longest time for a stop, in seconds.
    stop_s: u64,
}

/// Time for the process itself, in addition to the time for running requests.
const STOP_MORE: Duration = Duration::from_secs(60);

impl Facts {
    fn of(context: &Context<'_>, config: &Config) -> Result<Facts> {
        let program = std::env::current_exe().map_err(|error| {
            Error::operator(format!("cannot find this program's own file: {}", reason(&error)))
        })?;
        let path = context.config_path()?;
        let path = std::path::absolute(&path).unwrap_or(path);
        let home = (context.variable)("HOME").map(PathBuf::from).unwrap_or_default();
        Ok(Facts {
            program: text_of(&program)?,
            config: text_of(&path)?,
            home: text_of(&home)?,
            user: user(context),
            stop_s: (config.drain_timeout + STOP_MORE).as_secs(),
        })
    }

    /// Environment variables for the server.
    fn variables(&self) -> [(&'static str, &str); 2] {
        [("HOME", &self.home), ("MAXPOOL_CONFIG", &self.config)]
    }

    fn systemd(&self) -> String {
        let mut variables = String::new();
        for (name, value) in self.variables().iter().filter(|(name, _)| *name != "HOME") {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(variables, "Environment={}", systemd_word(&format!("{name}={value}")));
        }
        format!(
            "# Save as ~/.config/systemd/user/maxpool.service, then:\n\
             #   systemctl --user daemon-reload\n\
             #   systemctl --user enable --now maxpool\n\
             # To keep it running while you are logged out: loginctl enable-linger\n\
             [Unit]\n\
             Description=Proxy for several Claude accounts\n\
             Documentation=man:maxpool(1)\n\
             \n\
             [Service]\n\
             Type=notify\n\
             {variables}\
             ExecStart={} server --plain\n\
             ExecReload=/bin/kill -HUP $MAINPID\n\
             KillMode=mixed\n\
             TimeoutStopSec={}\n\
             Restart=on-failure\n\
             UMask=0077\n\
             NoNewPrivileges=yes\n\
             \n\
             [Install]\n\
             WantedBy=default.target\n",
            systemd_word(&self.program).replace('$', "$$"),
            self.stop_s
        )
    }

    fn socket(&self, config: &Config) -> Result<String> {
        if config.proxy.port == 0 {
            return Err(Error::operator(
                "proxy.port is 0, so there is no port for the socket; set one in the config",
            ));
        }
        let host = &config.proxy.host;
        let host = match host.as_str() {
            // A socket unit accepts only addresses.
            "localhost" => "127.0.0.1".to_owned(),
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        Ok(format!(
            "# Save as ~/.config/systemd/user/maxpool.socket, beside maxpool.service (print that\n\
             # with: maxpool service systemd), then:\n\
             #   systemctl --user daemon-reload\n\
             #   systemctl --user enable --now maxpool.socket\n\
             [Unit]\n\
             Description=Socket of maxpool\n\
             \n\
             [Socket]\n\
             ListenStream={host}:{}\n\
             \n\
             [Install]\n\
             WantedBy=sockets.target\n",
            config.proxy.port
        ))
    }

    fn runit(&self) -> String {
        let mut variables = String::new();
        for (name, value) in self.variables() {
            let _ = writeln!(variables, "export {name}={}", quoted(value));
        }
        let (program, user) = (quoted(&self.program), quoted(&self.user));
        format!(
            "#!/bin/sh\n\
             # Save as maxpool/run in your service directory and make it executable. It works\n\
             # under your own runsvdir and under the system's: the server runs as {user} either \
             way.\n\
             exec 2>&1\n\
             umask 077\n\
             {variables}\
             if [ \"$(id -u)\" -eq 0 ]; then\n\
             \x20 exec chpst -u {user} {program} server --plain\n\
             fi\n\
             exec {program} server --plain\n"
        )
    }

    fn supervisord(&self) -> String {
        let variables: Vec<String> = self
            .variables()
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", supervisord_text(value)))
            .collect();
        format!(
            "; Save as /etc/supervisor/conf.d/maxpool.conf, then: supervisorctl update\n\
             [program:maxpool]\n\
             command={} server --plain\n\
             user={}\n\
             environment={}\n\
             umask=077\n\
             stopwaitsecs={}\n\
             autorestart=unexpected\n\
             redirect_stderr=true\n",
            supervisord_text(&quoted(&self.program)),
            self.user,
            variables.join(","),
            self.stop_s
        )
    }

    fn launchd(&self) -> String {
        let mut variables = String::new();
        for (name, value) in self.variables() {
            let value = xml(value);
            let _ = writeln!(variables, "    <key>{name}</key><string>{value}</string>");
        }
        let log = xml(&format!("{}/Library/Logs/maxpool.log", self.home));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\"\n\
             \x20 \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             <!-- Save as ~/Library/LaunchAgents/maxpool.plist, then:\n\
             \x20    launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/maxpool.plist -->\n\
             <plist version=\"1.0\">\n\
             <dict>\n\
             \x20 <key>Label</key><string>maxpool</string>\n\
             \x20 <key>ProgramArguments</key>\n\
             \x20 <array>\n\
             \x20   <string>{}</string>\n\
             \x20   <string>server</string>\n\
             \x20   <string>--plain</string>\n\
             \x20 </array>\n\
             \x20 <key>EnvironmentVariables</key>\n\
             \x20 <dict>\n\
             {variables}\
             \x20 </dict>\n\
             \x20 <key>RunAtLoad</key><true/>\n\
             \x20 <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>\n\
             \x20 <key>ExitTimeOut</key><integer>{}</integer>\n\
             \x20 <key>Umask</key><integer>63</integer>\n\
             \x20 <key>StandardErrorPath</key><string>{log}</string>\n\
             </dict>\n\
             </plist>\n",
            xml(&self.program),
            self.stop_s
        )
    }
}

fn text_of(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) if !text.contains(['\n', '\r', '\0']) => Ok(text.to_owned()),
        _ => Err(Error::operator(format!(
            "{} contains characters that a service file cannot hold; move it elsewhere",
            path.display()
        ))),
    }
}

/// The current user: from the user database, else from the environment, else as a number.
fn user(context: &Context<'_>) -> String {
    let id = rustix::process::getuid().as_raw().to_string();
    let list = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    let variable = |name| (context.variable)(name)?.into_string().ok();
    named
        .or_else(|| variable("USER"))
        .or_else(|| variable("LOGNAME"))
        .filter(|name| !name.is_empty())
        .unwrap_or(id)
}

/// A word of a unit file: `%` is escaped, and special characters are quoted.
fn systemd_word(text: &str) -> String {
    let text = text.replace('%', "%%");
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:@%+,=$".contains(c);
    if text.chars().all(is_plain) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn supervisord_text(text: &str) -> String {
    text.replace('%', "%%").replace('"', "\\\"")
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            program: "/opt/my tools/max$pool%".into(),
            config: "/home/me/.config/maxpool.json".into(),
            home: "/home/me".into(),
            user: "me".into(),
            stop_s: 660,
        }
    }

    #[test]
    fn every_file_names_the_program_the_config_and_never_root() {
        let facts = facts();
        for (file, program) in [
            (facts.systemd(), "ExecStart=\"/opt/my tools/max$$pool%%\" server --plain"),
            (facts.runit(), "exec chpst -u me '/opt/my tools/max$pool%' server --plain"),
            (facts.supervisord(), "command='/opt/my tools/max$pool%%' server --plain\nuser=me\n"),
            (facts.launchd(), "<string>/opt/my tools/max$pool%</string>"),
        ] {
            assert!(file.contains(program), "{file}");
            assert!(file.contains("/home/me/.config/maxpool.json"), "{file}");
            assert!(!file.contains("root"), "{file}");
        }
        assert!(facts.systemd().contains("\nTimeoutStopSec=660\n"));
        assert!(facts.runit().contains("\nexport HOME=/home/me\n"));
        let environment = "environment=HOME=\"/home/me\",MAXPOOL_CONFIG=";
        assert!(facts.supervisord().contains(environment));
    }

    #[test]
    fn a_socket_unit_has_the_address_of_the_config() {
        let mut config = Config::default();
        for (host, port, line) in [
            ("127.0.0.1", 3456, Some("ListenStream=127.0.0.1:3456\n")),
            ("localhost", 1, Some("ListenStream=127.0.0.1:1\n")),
            ("::1", 1, Some("ListenStream=[::1]:1\n")),
            ("127.0.0.1", 0, None),
        ] {
            config.proxy.host = host.to_owned();
            config.proxy.port = port;
            let file = facts().socket(&config).ok();
            assert_eq!(file.is_some(), line.is_some(), "{host}:{port}");
            assert!(file.is_none_or(|file| line.is_some_and(|line| file.contains(line))));
        }
    }

    #[test]
    fn r3_the_units_are_valid_for_systemd() {
        let scratch = crate::testing::scratch::Scratch::new();
        let facts = Facts { program: "/bin/true".into(), ..facts() };
        let service = facts.systemd().replace("Documentation=man:maxpool(1)\n", "");
        let socket = facts.socket(&Config::default()).unwrap_or_default();
        let files =
            [("maxpool.service", service), ("maxpool.socket", socket)].map(|(name, text)| {
                let path = scratch.path(name);
                std::fs::write(&path, text).map(|()| path)
            });
        let mut verify = std::process::Command::new("systemd-analyze");
        verify.args(["verify", "--user"]).args(files.into_iter().flatten());
        let Ok(output) = verify.env("XDG_RUNTIME_DIR", scratch.path("")).output() else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("maxpool."), "{said}");
    }
}
