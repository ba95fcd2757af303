//! Messages that are too large for one piece.

use std::{
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use minitoolstream_testkit::{Proxy, Towards};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::command::{Ended, Session};

const MIB: usize = 1 << 20;

/// Bytes that look like no others of another place.
fn data(len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut data);
    data
}

/// Starts a command whose way to the broker leads through a proxy.
fn behind(proxy: &Proxy, session: &Session, line: &str) -> Child {
    let mut command = session.command(line);
    command.env("MINITOOLSTREAM_ADDRESS", proxy.address.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Interrupts a command that is stalled, as Ctrl-C does; gives its exit code, and what it said.
fn interrupt(child: Child, proxy: &Proxy) -> (Option<i32>, String) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // What the broker has to say last comes after the data that is on its way; all of the data never comes.
    proxy.stall_after(Towards::Client, 12 * MIB as u64);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Part files in a directory of the session.
fn parts(session: &Session, dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(session.dir.path().join(dir)).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.to_string_lossy().ends_with(".part")).collect()
}

#[test]
fn files_of_any_size_are_published_and_fetched() {
    let session = Session::start();
    let sizes = [0, 1, MIB - 1, MIB, MIB + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 20 * MIB];
    let mut line = "publish films --ttl 1h".to_owned();
    for size in sizes {
        session.write(&format!("in/{size}"), data(size));
        line += &format!(" --file in/{size}");
    }
    let published = session.json(&line);
    for ((size, sequence), published) in sizes.into_iter().zip(1..).zip(published) {
        assert_eq!((&published["sequence"], &published["path"]), (&json!(sequence), &json!(format!("in/{size}"))));
        if size > MIB {
            let digest: String = Sha256::digest(data(size)).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((&published["size"], &published["sha256"]), (&json!(size), &json!(digest)));
        }
    }
    session.run("fetch films --all --to out").text();
    session.run("consume w --filter films --limit 9 --to mirror").text();
    for size in sizes {
        assert!(session.read(&format!("out/in/{size}")) == data(size), "{size}");
        assert!(session.read(&format!("mirror/in/{size}")) == data(size), "{size}");
    }
    session.run("consume x --filter films --limit 9 --exec 'cat > $MTS_SEQUENCE.copy'").text();
    for (size, sequence) in sizes.into_iter().zip(1..) {
        assert!(session.read(&format!("{sequence}.copy")) == data(size), "{size}");
    }
    assert!(session.run("fetch films --from 9 --raw").output == data(20 * MIB));
    assert_eq!(parts(&session, "out/in"), Vec::<PathBuf>::new());
}

#[test]
fn a_pipe_of_unknown_size_is_published() {
    let session = Session::start();
    let mut publish = session.command("publish backups").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = publish.stdin.take().unwrap();
    for chunk in data(5 * MIB + 7).chunks(100_000) {
        pipe.write_all(chunk).unwrap();
    }
    drop(pipe);
    assert_eq!(String::from_utf8(publish.wait_with_output().unwrap().stdout).unwrap(), "1\n");
    assert!(session.run("fetch backups --raw").output == data(5 * MIB + 7));
}

#[test]
fn a_file_that_is_published_twice_is_two_messages_unless_it_has_an_id() {
    let session = Session::start();
    session.write("big", data(2 * MIB));
    let lines: Vec<String> = (0..3).map(|_| session.run("publish films big").text()).collect();
    assert_eq!(lines, ["1  big\n", "2  big\n", "3  big\n"]);
    let lines: Vec<String> = (0..2).map(|_| session.run("publish films big -m once").text()).collect();
    assert_eq!(lines, ["4  big\n", "4 (duplicate)  big\n"]);
    session.write("small", "s");
    let lines: Vec<String> = (0..2).map(|_| session.run("publish films big small -m both").text()).collect();
    let again = "5 (duplicate)  big\n6 (duplicate)  small\n2 messages are stored\n";
    assert_eq!(lines, ["5  big\n6  small\n2 messages are stored\n", again]);
}

#[test]
fn publish_goes_on_after_ctrl_c() {
    let session = Session::start();
    session.write("big", data(48 * MIB));
    let proxy = Proxy::start(session.broker.address("ingress"));
    proxy.stall_after(Towards::Broker, 40 * MIB as u64);
    let line = "publish films big -H kind=test";
    let publish = behind(&proxy, &session, line);
    proxy.wait_for_stall();
    let (code, errors) = interrupt(publish, &proxy);
    assert_eq!(code, Some(130), "{errors}");
    assert!(errors.contains("interrupted: run the same command again to go on with 'big'"), "{errors}");
    let id = errors.split("upload abort ").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    drop(proxy);

    let shown = session.json(&format!("upload show {id}")).remove(0);
    assert!(shown["published"].is_null() && shown["deadline"].is_string(), "{shown}");
    let Ended { code, output, errors } = session.run(line);
    assert_eq!((code, String::from_utf8(output).unwrap().as_str()), (0, "1  big\n"), "{errors}");
    assert!(errors.contains("'big' goes on after"), "{errors}");
    session.run("fetch films --to out").text();
    assert!(session.read("out/big") == data(48 * MIB));
    let shown = session.json(&format!("upload show {id}")).remove(0);
    assert_eq!(shown["published"]["sequence"], 1, "{shown}");
    let refusal = session.run(&format!("upload abort {id}")).refusal();
    assert!(refusal.contains("is published"), "{refusal}");
}

#[test]
fn an_upload_is_given_up() {
    let session = Session::start();
    session.write("big", data(48 * MIB));
    let proxy = Proxy::start(session.broker.address("ingress"));
    proxy.stall_after(Towards::Broker, 40 * MIB as u64);
    let publish = behind(&proxy, &session, "publish films big");
    proxy.wait_for_stall();
    let (_, errors) = interrupt(publish, &proxy);
    let id = errors.split("upload abort ").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    drop(proxy);
    assert_eq!(session.run(&format!("upload abort {id}")).text(), "given up\n");
    let refusal = session.run(&format!("upload show {id}")).refusal();
    assert!(refusal.contains(&id), "{refusal}");
    assert_eq!(session.run("publish films big").text(), "1  big\n");
}

#[test]
fn publish_goes_on_when_the_broker_is_killed() {
    let mut session = Session::start();
    session.write("big", data(48 * MIB));
    let proxy = Proxy::start(session.broker.address("ingress"));
    proxy.stall_after(Towards::Broker, 40 * MIB as u64);
    let publish = behind(&proxy, &session, "publish films big");
    proxy.wait_for_stall();
    session.broker.crash_and_restart();
    proxy.go_on();
    let output = publish.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(session.run("fetch films --raw").output == data(48 * MIB));
}

#[test]
fn fetch_and_consume_go_on_after_ctrl_c() {
    let session = Session::start();
    session.write("big", data(32 * MIB));
    session.run("publish films big").text();
    session.run("consumer create w --filter films").text();
    for (line, dir, expected) in [("fetch films --to out", "out", 130), ("consume w --limit 1 --to in", "in", 0)] {
        let proxy = Proxy::start(session.broker.address("ingress"));
        proxy.stall_after(Towards::Client, 16 * MIB as u64);
        let child = behind(&proxy, &session, line);
        proxy.wait_for_stall();
        wait_for_part(&session, dir);
        let (code, errors) = interrupt(child, &proxy);
        assert_eq!(code, Some(expected), "{errors}");
        assert_eq!(errors.contains("run the same command again to go on with"), expected == 130, "{errors}");
        drop(proxy);
        let [part] = &parts(&session, dir)[..] else { panic!("one part file") };
        assert!(part.metadata().unwrap().len() >= 4 * MIB as u64);

        let proxy = Proxy::start(session.broker.address("ingress"));
        let again = behind(&proxy, &session, line).wait_with_output().unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        let passed = proxy.passed(Towards::Client);
        assert!(passed < 30 * MIB as u64, "{passed} bytes: it began anew");
        assert!(session.read(&format!("{dir}/big")) == data(32 * MIB));
        assert_eq!(parts(&session, dir), Vec::<PathBuf>::new());
    }
    // What is there is not read again.
    let proxy = Proxy::start(session.broker.address("ingress"));
    assert!(behind(&proxy, &session, "fetch films --to out").wait().unwrap().success());
    let passed = proxy.passed(Towards::Client);
    assert!(passed < MIB as u64, "{passed}");
}

/// Waits until a part file has some megabytes.
fn wait_for_part(session: &Session, dir: &str) {
    let path = session.dir.path().join(dir);
    for _ in 0..500 {
        let there =
            path.exists() && parts(session, dir).iter().any(|part| part.metadata().unwrap().len() >= 4 * MIB as u64);
        if there {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("nothing is written");
}
