//! Row S3: who is followed, and what goes along.

use super::*;

const BEARER: &str = "canary-bearer";
const CONSUMER: &str = "canary-consumer";
const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

fn redirect(status: u16, to: &str) -> String {
    format!("HTTP/1.1 {status} Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
}

/// `/start` leads to a place that is told later; everything else is an answer.
async fn origin() -> (Server, Arc<Mutex<String>>) {
    let target = Arc::new(Mutex::new(String::new()));
    let told = target.clone();
    let script = move |request: &str| match request.split(' ').nth(1) {
        Some("/start") => told.lock().unwrap().clone(),
        Some("/loop") => redirect(307, "/loop"),
        Some(path) if path.starts_with("/hop") => match path[4..].parse::<u8>().unwrap() {
            0 => ok(request),
            left => redirect(308, &format!("/hop{}", left - 1)),
        },
        _ => ok(request),
    };
    (Server::start("127.0.0.1:0", script).await, target)
}

fn with_secrets(url: Url, method: Method, redirects: Redirects) -> Call<'static> {
    let body = (method == Method::POST).then(|| Bytes::from_static(b"{\"canary\":1}"));
    Call {
        method,
        redirects,
        body,
        bearer: Some(BEARER),
        consumer_token: Some(CONSUMER),
        node_id: Some("canary-node"),
        ..get(url.as_str(), Reach::Loopback)
    }
}

#[tokio::test]
async fn only_307_and_308_are_followed_and_only_where_the_call_may_go() {
    let client = client(|_, _| Vec::new());
    let (home, told) = origin().await;
    let away = Server::start("127.0.0.1:0", ok).await;
    let port = home.addr.port();
    for status in STATUSES {
        for (to, is_home) in [
            ("/end".to_owned(), true),
            (home.url("/end#part").to_string(), true),
            (format!("//{}/end", home.addr), true),
            (away.url("/end").to_string(), false),
            (format!("http://localhost:{port}/end"), false),
        ] {
            for (method, redirects) in [
                (Method::GET, Redirects::None),
                (Method::GET, Redirects::SameOrigin),
                (Method::POST, Redirects::SameOrigin),
                (Method::GET, Redirects::Anywhere),
                (Method::POST, Redirects::Anywhere),
            ] {
                *told.lock().unwrap() = redirect(status, &to);
                let what = format!("{method} {status} to {to} with {redirects:?}");
                let may = match redirects {
                    Redirects::None => false,
                    Redirects::SameOrigin => is_home,
                    Redirects::Anywhere => is_home || method == Method::GET,
                };
                let followed = may && matches!(status, 307 | 308);
                let before = (home.heard().len(), away.heard().len());
                let reply = client.call(with_secrets(home.url("/start"), method.clone(), redirects)).await.unwrap();
                assert_eq!(reply.status, if followed { 200 } else { status }, "{what}");
                let heard: Vec<String> =
                    home.heard().split_off(before.0).into_iter().chain(away.heard().split_off(before.1)).collect();
                assert_eq!(heard.len(), if followed { 2 } else { 1 }, "{what}");
                if followed && is_home {
                    assert!(heard[1].contains(BEARER) && heard[1].contains(CONSUMER), "{what}: {}", heard[1]);
                    assert_eq!(heard[1].contains("{\"canary\":1}"), method == Method::POST, "{what}: {}", heard[1]);
                } else if followed {
                    assert!(!heard[1].contains("canary"), "{what}: {}", heard[1]);
                }
            }
        }
    }
    assert!(!away.heard().is_empty() && away.heard().iter().all(|request| !request.contains("canary")));
}

#[tokio::test]
async fn three_hops_are_followed_and_a_loop_ends() {
    let client = client(|_, _| Vec::new());
    let (home, _) = origin().await;
    for (path, status, requests) in [("/hop3", 200, 4), ("/hop4", 308, 4), ("/loop", 307, 4)] {
        let before = home.heard().len();
        let reply = client.call(with_secrets(home.url(path), Method::POST, Redirects::SameOrigin)).await.unwrap();
        assert_eq!((reply.status, home.heard().len() - before), (status, requests), "{path}");
    }
}

#[tokio::test]
async fn credentials_do_not_come_back_after_a_detour() {
    let client = client(|_, _| Vec::new());
    let (home, told) = origin().await;
    let back = home.url("/end").to_string();
    let away = Server::start("127.0.0.1:0", move |_| redirect(307, &back)).await;
    *told.lock().unwrap() = redirect(307, away.url("/").as_str());
    let reply = client.call(with_secrets(home.url("/start"), Method::GET, Redirects::Anywhere)).await.unwrap();
    assert_eq!(reply.status, 200);
    assert!(home.heard()[0].contains("canary") && !home.heard()[1].contains("canary"), "{:?}", home.heard());
}

#[tokio::test]
async fn a_target_that_may_not_be_called_is_refused() {
    let client = client(|_, _| ips(&["10.0.0.1"]));
    let (home, told) = origin().await;
    for to in
        ["http://169.254.169.254/", "http://0x0a000001/", "http://pc/", "http://node.example/", "http://[fd00::1]/"]
    {
        *told.lock().unwrap() = redirect(307, to);
        let call = with_secrets(home.url("/start"), Method::GET, Redirects::Anywhere);
        assert_eq!(client.call(call).await.unwrap_err(), NoReply::Refused, "{to}");
    }
}

#[tokio::test]
async fn a_location_that_is_no_place_is_not_followed() {
    let client = client(|_, _| Vec::new());
    let (home, told) = origin().await;
    let with_user = format!("http://u:p@{}/end", home.addr);
    for to in [&*with_user, "ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http://[::1"] {
        *told.lock().unwrap() = redirect(307, to);
        let reply = client.call(with_secrets(home.url("/start"), Method::GET, Redirects::Anywhere)).await.unwrap();
        assert_eq!(reply.status, 307, "{to}");
    }
    *told.lock().unwrap() = "HTTP/1.1 307 Elsewhere\r\ncontent-length: 0\r\n\r\n".into();
    let reply = client.call(with_secrets(home.url("/start"), Method::GET, Redirects::Anywhere)).await.unwrap();
    assert_eq!(reply.status, 307);
    let start = Hop::first(home.url("/start"), Reach::Loopback);
    assert!(start.follow(Redirects::Anywhere, 307, Some(b"/\xff")).is_none());
}

#[test]
fn https_does_not_lead_to_http_and_the_public_does_not_lead_into_private_space() {
    let hop = |from: &str, reach, to: &str| {
        Hop::first(Url::parse(from).unwrap(), reach).follow(Redirects::Anywhere, 307, Some(to.as_bytes()))
    };
    let public = "https://directory.example.com/api";
    assert!(hop(public, Reach::Private, "http://directory.example.com/api").is_none());
    assert!(hop(public, Reach::Private, "http://replica.example.com/").is_none());
    let replica = hop(public, Reach::Private, "https://replica.example.com/").unwrap();
    assert_eq!((replica.reach, replica.same_origin), (Reach::Public, false));
    let inside = hop(public, Reach::Private, "https://10.0.0.1/").unwrap();
    assert!(guard::judge_url(&inside.url, inside.reach).is_err());
    let home = hop(public, Reach::Private, "/elsewhere").unwrap();
    assert_eq!((home.reach, home.same_origin), (Reach::Private, true));
    for private in ["http://10.0.0.2:9480/", "http://localhost:9480/", "http://directory.lan/"] {
        assert_eq!(hop(private, Reach::Private, "http://10.0.0.1/").unwrap().reach, Reach::Private, "{private}");
        let out = hop(private, Reach::Private, "http://replica.example.com/").unwrap();
        let back = out.follow(Redirects::Anywhere, 307, Some(b"http://10.0.0.1/")).unwrap();
        assert_eq!(back.reach, Reach::Public, "what {private} led to is public, and leads nowhere private");
    }
    let upgraded = hop("http://directory.example.com/", Reach::Private, "https://directory.example.com/").unwrap();
    assert!(!upgraded.same_origin);
    assert!(hop("http://a.example.com:80/", Reach::Public, "http://A.example.com./x").unwrap().same_origin);
}
