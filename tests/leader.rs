//! The leading process and its workers (SPEC R2): new workers that fail, old ones that die, and
//! signals to all of them.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::harness::home::program;
use crate::harness::{Ask, Client, Home, Proxy, ReplyEnd, hello, json, until};
use crate::restart::{
    Load, held_streams, resident_kib, restart, two_accounts, wait_started, workers,
};
use crate::upstream::{Message, Upstream};

#[test]
fn a_new_worker_that_cannot_start_leaves_the_old_one_serving() {
    let upstream = Upstream::start();
    let home = Home::new()
        .upstream(&upstream.url())
        .accounts(&["a"])
        .set("sync.accountsIntervalMs", json!(3_600_000));
    let proxy = Proxy::start(&home);
    let good = home.read().to_string();
    home.write_text("{ broken");
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "why it failed", |line| {
        line.contains("restart failed") && line.contains("maxpool.json")
    });
    for _ in 0..3 {
        proxy.post(&hello()).assert_said("Hello from upstream.");
    }
    until("the new one is gone", || workers(&proxy).is_empty().then_some(()));
    home.write_text(&good);
    restart(&proxy);
    proxy.post(&hello()).assert_said("Hello from upstream.");
}

/// A copy of the program that can be replaced.
fn own_copy(home: &Home) -> PathBuf {
    let path = home.path().join("maxpool-copy");
    std::fs::copy(program(), &path).expect("copy the program");
    path
}

fn replace(path: &std::path::Path, bytes: &[u8], mode: u32) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes).expect("write a program");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode)).expect("its mode");
    std::fs::rename(&beside, path).expect("put it in place");
}

#[test]
fn a_new_program_that_is_broken_leaves_the_old_one_serving() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    home.write();
    let copy = own_copy(&home);
    let prepared = home.command(&[]);
    let mut command = Command::new(&copy);
    command.args(["server", "--plain"]).env_clear();
    for (name, value) in prepared.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut proxy = Proxy::spawn(command);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let streams = held_streams(&upstream, &proxy, 5, &message, &gate);
    let (load, threads) = Load::start(&proxy);
    let rows: [(&[u8], u32, &str); 5] = [
        (b"#!/bin/sh\nexit 3\n", 0o755, "exit status: 3"),
        (b"#!/bin/sh\nkill -9 $$\n", 0o755, "signal: 9"),
        (b"#!/bin/sh\nexec true <&-\n", 0o755, "before it served"),
        (b"not a program", 0o755, "restart failed"),
        (b"#!/bin/sh\nexit 0\n", 0o644, "ermission denied"),
    ];
    for (program, mode, word) in rows {
        replace(&copy, program, mode);
        let from = proxy.log().len();
        proxy.signal(Signal::USR2);
        proxy.wait_line_after(from, word, |line| {
            line.contains("restart failed") && line.contains(word)
        });
        proxy.post(&hello()).assert_said("Hello from upstream.");
        assert!(proxy.is_running());
    }
    std::fs::remove_file(&copy).expect("remove the program");
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "why", |line| line.contains("restart failed"));
    replace(&copy, &std::fs::read(program()).expect("the program"), 0o755);
    restart(&proxy);
    let serving = workers(&proxy);
    assert_eq!(serving.len(), 1);
    let runs = std::fs::read_link(format!("/proc/{}/exe", serving[0])).expect("what it runs");
    assert_eq!(runs, copy, "the program that was put in place");
    gate.open();
    for stream in streams {
        stream.join().expect("a client").assert_said(&message.text);
    }
    load.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        assert_eq!(thread.join().expect("a client"), Vec::<String>::new());
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn a_signal_to_the_whole_group_counts_once() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let mut streams = held_streams(&upstream, &proxy, 2, &message, &gate);
    restart(&proxy);
    streams.extend(held_streams(&upstream, &proxy, 2, &message, &gate));
    let from = proxy.log().len();
    let group = Pid::from_raw(i32::try_from(proxy.pid()).expect("a pid")).expect("a pid");
    rustix::process::kill_process_group(group, Signal::INT).expect("send a signal");
    proxy.wait_line_after(from, "the stop", |line| line.contains("stopping: 2 requests left"));
    assert!(proxy.is_running());
    gate.open();
    for stream in streams {
        stream.join().expect("a client").assert_said(&message.text);
    }
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn after_a_restart_a_second_signal_cuts_all_workers() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let mut streams = held_streams(&upstream, &proxy, 2, &message, &gate);
    restart(&proxy);
    streams.extend(held_streams(&upstream, &proxy, 2, &message, &gate));
    let from = proxy.log().len();
    proxy.terminate();
    proxy.wait_line_after(from, "the stop", |line| line.contains("stopping"));
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(1));
    for stream in streams {
        let reply = stream.join().expect("a client");
        assert_ne!(reply.end, ReplyEnd::Complete);
    }
    assert!(workers(&proxy).is_empty());
}

#[test]
fn an_old_worker_is_cut_at_the_limit_and_the_new_one_goes_on() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream).set("shutdown.drainTimeoutMs", json!(300));
    let mut proxy = Proxy::start(&home);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let streams = held_streams(&upstream, &proxy, 2, &message, &gate);
    restart(&proxy);
    for stream in streams {
        assert_ne!(stream.join().expect("a client").end, ReplyEnd::Complete);
    }
    proxy.wait_line("the cut", |line| line.contains("2 requests are cut: shutdown.drainTimeoutMs"));
    proxy.post(&hello()).assert_said("Hello from upstream.");
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn a_worker_that_is_killed_is_replaced() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    restart(&proxy);
    let kill = |pid: u32| {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, Signal::KILL).expect("kill a worker");
    };
    for _ in 0..3 {
        let worker = until("one worker", || {
            let workers = workers(&proxy);
            (workers.len() == 1).then(|| workers[0])
        });
        let from = proxy.log().len();
        kill(worker);
        until("it is gone", || workers(&proxy).iter().all(|pid| *pid != worker).then_some(()));
        // Never refused, since the socket outlives the worker.
        until("it is served", || (proxy.post(&hello()).status == 200).then_some(()));
        proxy.wait_line_after(from, "why", |line| {
            line.contains("takes over") && line.contains("signal: 9")
        });
        assert!(proxy.is_running());
    }
    // A supervisor must notice a failure that does not go away.
    kill(workers(&proxy)[0]);
    assert_eq!(proxy.wait_exit(), Some(1));
    proxy.wait_line("why it gave up", |line| {
        line.starts_with("maxpool: ") && line.contains("signal: 9")
    });
}

#[test]
fn workers_do_not_outlive_their_leader() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    restart(&proxy);
    let gate = upstream.gate();
    let message = Message::long(12, 20);
    let streams = held_streams(&upstream, &proxy, 2, &message, &gate);
    let worker = workers(&proxy).pop().expect("a worker");
    proxy.signal(Signal::KILL);
    assert_eq!(proxy.wait_exit(), None);
    until("the port closes", || {
        std::net::TcpStream::connect(proxy.address()).is_err().then_some(())
    });
    gate.open();
    for stream in streams {
        stream.join().expect("a client").assert_said(&message.text);
    }
    until("the worker ends", || {
        (!std::path::Path::new(&format!("/proc/{worker}/stat")).exists()
            || resident_kib(worker) == 0)
            .then_some(())
    });
}

#[test]
fn the_port_stays_taken_through_a_restart() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let proxy = Proxy::start(&home);
    restart(&proxy);
    let second = Home::new().accounts(&["b"]).set("proxy.port", json!(proxy.address().port()));
    second.write();
    let ran = second.run(&["server", "--plain"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stderr.contains("the port is in use"), "{}", ran.stderr);
}

#[test]
fn another_port_takes_effect_with_a_restart() {
    let upstream = Upstream::start();
    let home = two_accounts(&upstream);
    let mut proxy = Proxy::start(&home);
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("its address").port();
    let mut config = home.read();
    config["proxy"]["port"] = json!(port);
    home.write_text(&config.to_string());
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "why", |line| {
        line.contains("restart failed") && line.contains("the port is in use")
    });
    proxy.post(&hello()).assert_said("Hello from upstream.");
    drop(free);
    let from = proxy.log().len();
    proxy.signal(Signal::USR2);
    proxy.wait_line_after(from, "the new port", |line| {
        line.contains("listens on") && line.contains(&port.to_string())
    });
    let reply = Client::connect(([127, 0, 0, 1], port).into()).ask(&Ask::messages(&hello()));
    reply.assert_said("Hello from upstream.");
    until("the old port closes", || {
        std::net::TcpStream::connect(proxy.address()).is_err().then_some(())
    });
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), Some(0));
}
