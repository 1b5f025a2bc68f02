//! What keys do, and what they do not do.

#![allow(clippy::panic)]
use super::*;
use crate::report::status::Queue;

fn account(name: &str, kind: &str, enabled: bool) -> Account {
    Account { name: name.into(), kind: kind.into(), enabled, ..Account::default() }
}

/// In display order: work, spare, api, then glm.
fn pool() -> Status {
    let mut glm = account("glm", "provider", true);
    glm.runtime = true;
    Status {
        accounts: vec![
            glm,
            account("work", "oauth", true),
            account("spare", "oauth", false),
            account("api", "apikey", true),
        ],
        ..Status::default()
    }
}

/// `^` is Esc, `u` and `d` are the arrow keys, a line end is Enter.
fn press(ui: &mut Ui, keys: &str, status: &Status) -> Vec<Action> {
    keys.chars()
        .filter_map(|key| {
            let key = match key {
                '\n' => Key::Enter,
                '^' => Key::Esc,
                'u' => Key::Up,
                'd' => Key::Down,
                key => Key::Char(key),
            };
            ui.press(key, status)
        })
        .collect()
}

#[test]
fn nothing_changes_without_a_question_answered_with_y() {
    let rows = [
        ("q", "[]"),
        ("qy", "[Quit]"),
        ("qn", "[]"),
        ("q^", "[]"),
        ("qxy", "[Quit]"),
        ("qny", "[]"),
        ("ry", "[Restart]"),
        ("s", "[Sync]"),
        ("y", "[]"),
        ("zxcvb1 ,\n^ud", "[]"),
        ("a\n\ny", "[Disable(\"work\")]"),
        ("aj\n\ny", "[Enable(\"spare\")]"),
        ("add\njjjjy", "[]"),
        ("add\njjjj\ny", "[Delete(\"api\")]"),
        ("add\njjjj\nn", "[]"),
        ("a\njj\ny", "[Retry(\"work\")]"),
        ("a\nj\ny", "[SignIn(Some(\"work\"))]"),
        ("a\nj\nycode\n", "[SignIn(Some(\"work\")), SignInCode([hidden])]"),
        ("a\nj\nyco^", "[SignIn(Some(\"work\")), CancelSignIn]"),
        ("a\njjj\n2\ny", "[Rename { from: \"work\", to: \"work2\" }]"),
        ("a\njjj\n2\nn", "[]"),
        ("a\njjj\n2^", "[]"),
        ("a\njjj\n\n", "[]"),
        ("add\nj\nsk-ant\ny", "[ReplaceKey(\"api\", [hidden])]"),
        ("add\nj\nsk-ant\nn", "[]"),
        ("ajjj\nj\ny", "[Retry(\"glm\")]"),
        ("ajjj\njj\ny", "[Retry(\"glm\")]"),
        ("l\ny", "[SignIn(Some(\"work\"))]"),
        ("lj\nn", "[]"),
        ("ljjj\ny", "[SignIn(None)]"),
        ("v\n^qy", "[Quit]"),
        ("ajjj\n\ny", "[Disable(\"glm\")]"),
        ("ajjjj\ny", "[Import]"),
        ("ajjjjjjjjjj\nsk-ant\ny", "[AddKey([hidden])]"),
        ("ajjjjjjjjjj\nsk-ant\nn", "[]"),
        ("ajjjjj\n\n", "[]"),
        ("m\n", "[]"),
        ("mj\ny", "[Prefer(\"work\")]"),
        ("mjj\ny", "[Prefer(\"api\")]"),
        ("mjjjjjjj\ny", "[Prefer(\"api\")]"),
        ("mj\nn^qy", "[Quit]"),
        ("?^qy", "[Quit]"),
        ("?qqy", "[Quit]"),
    ];
    for (keys, actions) in rows {
        let shown = format!("{:?}", press(&mut Ui::new(Seat::Server), keys, &pool()));
        assert_eq!(shown, actions, "{keys:?}");
    }
}

#[test]
fn the_cursor_of_the_routing_page_stands_on_the_present_choice() {
    let mut status = pool();
    status.routing.preferred_account = Some("api".into());
    let mut ui = Ui::new(Seat::Server);
    assert!(press(&mut ui, "m", &status).is_empty());
    assert_eq!(ui.page(), &Page::Routing { cursor: 2 });
    assert!(press(&mut ui, "\n", &status).is_empty(), "the present choice is no change");
    assert_eq!(ui.page(), &Page::Main);
    let actions = press(&mut ui, "mkk\ny", &status);
    assert!(matches!(actions[..], [Action::Automatic]));
}

#[test]
fn a_pasted_key_is_taken_and_a_stray_paste_is_not() {
    let mut ui = Ui::new(Seat::Server);
    assert!(ui.press(Key::Paste("qy".into()), &pool()).is_none());
    assert_eq!(ui.question(), None);
    assert!(press(&mut ui, "ajjjjjjjj\n", &pool()).is_empty());
    assert!(ui.press(Key::Paste(" sk-ant-\u{e9}1\nqy".into()), &pool()).is_none());
    assert_eq!(ui.page(), &Page::Entry { wanted: Wanted::NewKey, shown: "********".into() });
    assert!(ui.press(Key::Backspace, &pool()).is_none());
    let actions = press(&mut ui, "\ny", &pool());
    let [Action::AddKey(key)] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(key.expose(), "sk-ant-");
    assert!(!format!("{ui:?}").contains("sk-ant"));
}

#[test]
fn d1_l_opens_on_the_account_that_needs_a_login() {
    let mut status = pool();
    for (broken, cursor) in [(None, 0), (Some(2), 1), (Some(3), 2)] {
        status.accounts.iter_mut().for_each(|account| account.status = "active".into());
        if let Some(index) = broken {
            status.accounts[index].status = "error".into();
        }
        let mut ui = Ui::new(Seat::Attached);
        assert!(press(&mut ui, "l", &status).is_empty());
        assert_eq!(ui.page(), &Page::SignIn { cursor });
    }
}

#[test]
fn a_new_name_must_be_free() {
    let mut ui = Ui::new(Seat::Server);
    // Three times backspace, and a letter other than the other account's.
    let status = pool();
    assert!(press(&mut ui, "a\njjj\n", &status).is_empty());
    for _ in 0.."work".len() {
        assert!(ui.press(Key::Backspace, &status).is_none());
    }
    assert!(press(&mut ui, "api\ny", &status).is_empty());
    assert_eq!(ui.note(), None, "the y is part of the name");
    assert!(ui.press(Key::Backspace, &status).is_none());
    assert!(press(&mut ui, "\n", &status).is_empty());
    assert_eq!(ui.note(), Some("api is already the name of another account"));
    assert_eq!(ui.question(), None);
}

#[test]
fn d1_an_attached_dashboard_knows_no_restart() {
    let mut ui = Ui::new(Seat::Attached);
    assert!(press(&mut ui, "ry", &pool()).is_empty());
    assert_eq!((ui.question(), ui.note()), (None, None), "a stray key does nothing");
    assert!(help_of(Seat::Attached).iter().all(|(key, _)| *key != "r"));
    assert!(help_of(Seat::Server).iter().any(|(key, _)| *key == "r"));
}

#[test]
fn questions_say_what_will_happen() {
    let mut status = pool();
    status.requests_in_flight = 3;
    status.draining = true;
    let mut ui = Ui::new(Seat::Server);
    assert!(press(&mut ui, "q", &status).is_empty());
    assert_eq!(ui.question(), Some("Stop at once? 3 requests in flight will be cut."));
    status.draining = false;
    status.queue = Queue { waiting: 1, ..Queue::default() };
    status.accounts[1].in_flight = 1;
    for (seat, keys, question) in [
        (
            Seat::Server,
            "q",
            "Stop the server? New requests are refused. 2 requests in flight will finish. \
             1 request waiting will be told to retry.",
        ),
        (Seat::Attached, "q", "Leave the dashboard? The server keeps running."),
        (
            Seat::Server,
            "r",
            "Restart? A new process will take over; no connection is refused. 2 requests in \
             flight will finish \
             on the old one. 1 request waiting will be told to retry.",
        ),
        (
            Seat::Server,
            "a\n\n",
            "Disable work? New requests will go to other accounts. Its 1 request in flight will \
             finish.",
        ),
        (Seat::Server, "aj\n\n", "Enable spare? It will serve again at once."),
    ] {
        let mut ui = Ui::new(seat);
        assert!(press(&mut ui, keys, &status).is_empty());
        assert_eq!(ui.question(), Some(question));
    }
}

#[test]
fn lists_may_shrink_under_the_cursor() {
    let mut ui = Ui::new(Seat::Server);
    assert!(press(&mut ui, "ajjj\n", &pool()).is_empty());
    let empty = Status::default();
    for keys in ["\n", "\n", "^", "mjjj\n", "ejj", "^", "ajj\n", "^^"] {
        let _ = press(&mut ui, keys, &empty);
    }
}

#[test]
fn the_manual_names_every_key() {
    const MANUAL: &str = include_str!("../../../man/maxpool.1");
    let keys = HELP.iter().map(|(key, _)| key.replace(' ', " , Ic "));
    for key in keys.chain(["\\&?".to_owned()]) {
        let item = format!(".It Ic {key}\n");
        assert!(MANUAL.contains(&item), "{item}");
    }
}
