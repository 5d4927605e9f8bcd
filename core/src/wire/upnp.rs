//! What is said to an Internet gateway device (UPnP IGD 1 and 2): the search, its description, and calls to its services.

use std::net::IpAddr;

use url::{Host, Url};

use super::xml::{self, Element, escaped};

/// The service that maps ports, best first. A gateway of the second version has the first one as well.
const MAPPERS: [&str; 3] = ["WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1"];
/// The service that opens holes in the firewall of IPv6.
const FIREWALL: &str = "WANIPv6FirewallControl:1";
/// More answers to one search are not looked at.
pub(crate) const MOST_ANSWERS: usize = 8;
/// Largest answer to a search.
pub(crate) const MOST_ANSWER: usize = 2 << 10;
/// Longest text of a gateway that is shown.
const MOST_SHOWN: usize = 80;

/// What a search asks for.
pub(crate) const TARGETS: [&str; 3] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1",
];

/// A search, to be sent to `host`.
pub(crate) fn search(host: &str, target: &str) -> String {
    format!("M-SEARCH * HTTP/1.1\r\nHOST: {host}:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {target}\r\n\r\n")
}

/// Where the answer to a search says that the description is.
pub(crate) fn location(answer: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(answer.get(..answer.len().min(MOST_ANSWER))?).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?;
    if !status.starts_with("HTTP/1.") || status.split(' ').nth(1) != Some("200") {
        return None;
    }
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    let (_, value) = headers.find(|(name, _)| name.trim().eq_ignore_ascii_case("location"))?;
    Some(value.trim().to_owned())
}

/// Reads a place that a gateway named: plain HTTP at an address, without credentials. Names are not looked up for it.
pub(crate) fn place(text: &str) -> Option<(Url, IpAddr, u16)> {
    let url = Url::parse(text).ok()?;
    if url.scheme() != "http" || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let ip = match url.host()? {
        Host::Ipv4(ip) => IpAddr::V4(ip),
        Host::Ipv6(ip) => IpAddr::V6(ip),
        Host::Domain(_) => return None,
    };
    let port = url.port_or_known_default()?;
    Some((url, ip, port))
}

/// A service of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its type, such as `urn:schemas-upnp-org:service:WANIPConnection:1`.
    pub(crate) kind: String,
    pub(crate) control: Url,
}

impl Service {
    /// Whether it is of the second version, which chooses a free port by itself.
    pub(crate) fn chooses_ports(&self) -> bool {
        self.kind.ends_with("WANIPConnection:2")
    }
}

/// What a gateway can do, by its description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) mapper: Option<Service>,
    pub(crate) firewall: Option<Service>,
}

/// Reads the description that stands at `at`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn description(document: &[u8], at: &Url) -> Result<Description, String> {
    let root = xml::read(document).map_err(|fault| format!("its description is refused: {fault}"))?;
    let base = root.text_of("URLBase").and_then(|base| Url::parse(base).ok()).unwrap_or_else(|| at.clone());
    let services: Vec<Service> = root
        .all()
        .into_iter()
        .filter(|element| element.name == "service")
        .filter_map(|element| service(element, &base))
        .collect();
    let find = |kind: &str| services.iter().find(|service| service.kind.ends_with(kind)).cloned();
    Ok(Description { mapper: MAPPERS.iter().find_map(|kind| find(kind)), firewall: find(FIREWALL) })
}

fn service(element: &Element, base: &Url) -> Option<Service> {
    let kind = element.text_of("serviceType")?;
    // It comes back in a header.
    let is_type = kind.len() <= 128 && kind.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    let control = base.join(element.text_of("controlURL")?).ok()?;
    is_type.then(|| Service { kind: kind.to_owned(), control })
}

/// The body of a call to a service.
pub(crate) fn call(service: &Service, action: &str, arguments: &[(&str, String)]) -> String {
    let arguments: String =
        arguments.iter().map(|(name, value)| format!("<{name}>{}</{name}>", escaped(value))).collect();
    format!(
        "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{}\">{arguments}\
         </u:{action}></s:Body></s:Envelope>\r\n",
        escaped(&service.kind)
    )
}

/// What a call came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done(Element),
    /// The gateway's own code, and its words.
    Failed(u16, String),
}

/// Reads the answer to a call.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn answer(document: &[u8], action: &str) -> Result<Answer, String> {
    let root = xml::read(document).map_err(|fault| format!("its answer is refused: {fault}"))?;
    let elements = root.all();
    if let Some(code) = elements.iter().find_map(|element| element.text_of("errorCode")) {
        let code = code.parse().map_err(|_| "its error has no number".to_owned())?;
        let said = elements.iter().find_map(|element| element.text_of("errorDescription")).unwrap_or_default();
        return Ok(Answer::Failed(code, shown(said)));
    }
    let wanted = format!("{action}Response");
    let body = root.children.into_iter().find(|child| child.name == "Body");
    let done = body.and_then(|body| body.children.into_iter().find(|child| child.name == wanted));
    done.map(Answer::Done).ok_or_else(|| format!("its answer to {action} is none"))
}

/// What somebody else wrote, as far as it is fit to be shown.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MOST_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: &str = "<root><device><deviceList><device><serviceList><service>\
        <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl/IPConn</controlURL>\
        </service><service><serviceType>urn:schemas-upnp-org:service:WANIPv6FirewallControl:1</serviceType>\
        <controlURL>/ctl/6</controlURL></service></serviceList></device></deviceList></device></root>";

    #[test]
    fn a_gateway_says_where_its_services_are() {
        let at = Url::parse("http://192.168.1.1:5000/rootDesc.xml").unwrap();
        let found = description(DESCRIPTION.as_bytes(), &at).unwrap();
        assert_eq!(found.mapper.unwrap().control.as_str(), "http://192.168.1.1:5000/ctl/IPConn");
        assert_eq!(found.firewall.unwrap().control.as_str(), "http://192.168.1.1:5000/ctl/6");
        assert_eq!(description(b"<root/>", &at).unwrap(), Description::default());
        assert!(description(b"<root>", &at).is_err());
    }

    #[test]
    fn places_are_plain_http_at_an_address() {
        assert!(place("http://192.168.1.1:5000/x").is_some());
        assert!(place("http://[2001:db8::1]/x").is_some());
        for bad in ["https://192.168.1.1/", "http://gateway.lan/", "http://u@192.168.1.1/", "ftp://192.168.1.1", "x"] {
            assert!(place(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_answer_to_a_search_names_a_place() {
        let answer = b"HTTP/1.1 200 OK\r\nST: x\r\nLocation: http://192.168.1.1:5000/x\r\n\r\n";
        assert_eq!(location(answer).as_deref(), Some("http://192.168.1.1:5000/x"));
        for bad in
            [&b"NOTIFY * HTTP/1.1\r\nLOCATION: x\r\n\r\n"[..], b"HTTP/1.1 404 x\r\nLOCATION: x\r\n", b"", b"\xff"]
        {
            assert_eq!(location(bad), None);
        }
    }

    #[test]
    fn a_call_is_done_or_has_failed() {
        let done =
            "<s:Envelope xmlns:s='x'><s:Body><u:GetResponse xmlns:u='y'><A>1</A></u:GetResponse></s:Body></s:Envelope>";
        let Answer::Done(done) = answer(done.as_bytes(), "Get").unwrap() else { panic!("not done") };
        assert_eq!(done.text_of("A"), Some("1"));
        let failed = "<s:Envelope><s:Body><s:Fault><detail><UPnPError><errorCode>718</errorCode>\
                      <errorDescription>Conflict\u{1b}</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>";
        assert_eq!(answer(failed.as_bytes(), "Get"), Ok(Answer::Failed(718, "Conflict".into())));
        assert!(answer(b"<a/>", "Get").is_err());
    }

    /// What has broken readers of gateways' descriptions: names longer than the room kept for them (as CVE-2015-6031), lists and
    /// elements without end, ends that belong to nothing, and services that only look like one.
    #[test]
    fn descriptions_that_have_broken_others_name_no_service() {
        const KIND: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";
        let at = Url::parse("http://192.168.1.1:5000/root.xml").unwrap();
        let in_list = |services: &str| format!("<root><device><serviceList>{services}</serviceList></device></root>");
        let kind = format!("<serviceType>{KIND}</serviceType>");
        let good = format!("<service>{kind}<controlURL>/c</controlURL></service>");
        assert!(description(in_list(&good).as_bytes(), &at).unwrap().mapper.is_some(), "else nothing is shown below");
        let long = |length: usize| "a".repeat(length);
        let mut refused = Vec::new();
        for length in [129, 1_024, 4_097, 100_000] {
            let name = long(length);
            refused.push(in_list(&format!("<{name}>{good}</{name}>")));
            refused.push(in_list(&format!("<x:{name}/>{good}")));
            refused.push(in_list(&format!("<service><{name}>{kind}</service>")));
            refused.push(in_list(&format!("{good}</{name}>")));
            refused.push(format!("<{name}>{}</{name}>", in_list(&good)));
            refused.push(in_list(&format!("{good}&{name};")));
        }
        let open = in_list(&good);
        for end in [
            "</root>",
            "</device></root>",
            "</serviceList></device></root>",
            "</service></serviceList></device></root>",
        ] {
            refused.push(open.strip_suffix(end).unwrap().to_owned());
        }
        let without_end = |piece: &str| open.replace("</serviceList>", piece);
        refused.extend(
            ["", "</serviceList", "<serviceList>", "<!-- </serviceList>", "<![CDATA[</serviceList>"].map(without_end),
        );
        refused.extend(
            ["</service></serviceList>", "</s:service>", "</serviceList></serviceList>", "</>", "</ >"]
                .map(without_end),
        );
        refused.push(in_list(&good.repeat(2_000)));
        refused.push(in_list(&format!("{}{good}{}", "<device>".repeat(20), "</device>".repeat(20))));
        refused.push(format!("<!DOCTYPE r SYSTEM \"http://5.5.2.2/x.dtd\">{open}"));
        refused.push(format!("<!DOCTYPE r [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>{open}"));
        refused.push(open.replace("/c<", "&x;<"));
        refused.push(open.replace("<serviceList>", "<serviceList a=\"").replace("</root>", ""));
        refused.push(format!("{open}{}", long(300 << 10)));
        for document in &refused {
            let shown = &document[..document.len().min(200)];
            assert!(description(document.as_bytes(), &at).is_err(), "{shown}");
        }
        let nothing = [
            in_list(&format!("<!-- {good} -->")),
            in_list(&format!("<![CDATA[{good}]]>")),
            in_list(&escaped(&good)),
            in_list(&format!("<service a=\"{}\"/>", good.replace('"', ""))),
            in_list(&format!("<service>{kind}</service><controlURL>/c</controlURL>")),
            in_list(&format!("{kind}<controlURL>/c</controlURL>")),
            in_list(&format!("<service><x>{kind}<controlURL>/c</controlURL></x></service>")),
            // It would come back in a header.
            in_list(&good.replace("urn:", "urn:&#13;&#10;X: y&#13;&#10;")),
            in_list(&good.replace("urn:", "\"#x\" ")),
            in_list(&good.replace("urn:", "&#0;")),
            in_list(&good.replace("urn:", &long(200))),
            in_list(&good.replace("/c<", "http://[<")),
        ];
        for document in &nothing {
            assert_eq!(description(document.as_bytes(), &at).unwrap(), Description::default(), "{document}");
        }
    }

    #[test]
    fn answers_that_have_broken_others_are_no_answers() {
        let answered = |inside: &str| format!("<s:Envelope><s:Body>{inside}</s:Body></s:Envelope>");
        let long = "a".repeat(100_000);
        let refused = [
            answered(&format!("<u:{long}Response/>")),
            answered("<u:GetResponse><A>1</A>"),
            answered("</u:GetResponse>"),
            answered("<s:Fault><errorCode>99999999999</errorCode></s:Fault>"),
            answered("<s:Fault><errorCode>-718</errorCode></s:Fault>"),
            answered("<u:SetResponse/>"),
            format!("<u:GetResponse>{long}</u:GetResponse>"),
            "<s:Envelope><s:Body><u:GetResponse/>".to_owned(),
        ];
        for document in &refused {
            assert!(answer(document.as_bytes(), "Get").is_err(), "{}", &document[..document.len().min(200)]);
        }
        let words = format!(
            "<s:Fault><errorCode>718</errorCode><errorDescription>{long}\u{1b}[2J</errorDescription></s:Fault>"
        );
        let said = answer(answered(&words).as_bytes(), "Get").unwrap();
        assert_eq!(said, Answer::Failed(718, "a".repeat(MOST_SHOWN)));
    }

    #[test]
    fn no_answer_of_a_gateway_whatever_it_is_breaks_its_reader() {
        let at = Url::parse("http://192.168.1.1:5000/").unwrap();
        let search = b"HTTP/1.1 200 OK\r\nLocation: http://192.168.1.1:5000/x\r\n\r\n";
        let fault = "<s:Envelope><s:Body><s:Fault><errorCode>718</errorCode></s:Fault></s:Body></s:Envelope>";
        let parts: [&[u8]; 8] = [b"<", b">", b"</", b"<![CDATA[", b"]]>", b"&#x", b"<!--", b"\xff"];
        let mut state = 1_u64;
        let mut next = |most: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap_or(0) % most.max(1)
        };
        for _ in 0..20_000 {
            for seed in [DESCRIPTION.as_bytes(), search, fault.as_bytes()] {
                let mut bytes = seed.to_vec();
                for _ in 0..=next(4) {
                    let place = next(bytes.len());
                    match next(3) {
                        0 => bytes.truncate(place),
                        1 => bytes.splice(place..place, parts[next(parts.len())].iter().copied()).for_each(drop),
                        _ => {
                            if let Some(byte) = bytes.get_mut(place) {
                                *byte ^= 1 << next(8);
                            }
                        }
                    }
                }
                let _ = (description(&bytes, &at), answer(&bytes, "Get"), location(&bytes));
            }
        }
    }
}
