//! What a gateway does with packets: every kind of NAT as rules of nft. What is not let in is dropped, never refused.

/// The kinds, by what they do with UDP. Linux keeps the port of whoever is first, which makes all but one of them map
/// independently of whom a packet goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// Addresses stay as they are, in IPv6.
    Routed,
    /// In comes what answers a packet to the very address and port: what masquerading does by itself.
    PortRestricted,
    /// In comes what is from an address to which the port has sent.
    Restricted,
    /// In comes everything to a port that has sent.
    FullCone,
    /// Every destination sees another port.
    Symmetric,
}

/// What of port control the gateway does not hear, by the first byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deaf {
    Hears,
    ToNatPmp,
    ToPcp,
}

/// The rules of a gateway between `wan` and `lan`. The chains without rules are those that miniupnpd writes into.
pub(crate) fn gateway(nat: Nat, deaf: Deaf) -> String {
    let (note, let_in) = match nat {
        Nat::Routed | Nat::PortRestricted | Nat::Symmetric => ("", ""),
        Nat::Restricted => (
            r#"iifname "lan" meta l4proto { tcp, udp } update @open { meta l4proto . th sport . ip daddr : ip saddr }"#,
            r#"iifname "wan" dnat ip to meta l4proto . th dport . ip saddr map @open"#,
        ),
        Nat::FullCone => (
            r#"iifname "lan" meta l4proto { tcp, udp } update @open { meta l4proto . th sport : ip saddr }"#,
            r#"iifname "wan" dnat ip to meta l4proto . th dport map @open"#,
        ),
    };
    let open = match nat {
        Nat::Restricted => "type inet_proto . inet_service . ipv4_addr : ipv4_addr",
        _ => "type inet_proto . inet_service : ipv4_addr",
    };
    let translate = match nat {
        Nat::Routed => "",
        Nat::Symmetric => r#"oifname "wan" meta nfproto ipv4 masquerade fully-random"#,
        _ => r#"oifname "wan" meta nfproto ipv4 masquerade"#,
    };
    let deaf = match deaf {
        Deaf::Hears => "",
        Deaf::ToNatPmp => "udp dport 5351 @th,64,8 0 drop",
        Deaf::ToPcp => "udp dport 5351 @th,64,8 2 drop",
    };
    format!(
        r#"
table inet filter {{
    map open {{ {open}; flags dynamic,timeout; timeout 2m; }}
    chain miniupnpd {{ }}
    chain prerouting_miniupnpd {{ }}
    chain postrouting_miniupnpd {{ }}
    chain input {{
        type filter hook input priority 0; policy drop;
        meta l4proto {{ icmp, ipv6-icmp }} accept
        {deaf}
        iifname != "wan" accept
        ct state established,related accept
    }}
    chain forward {{
        type filter hook forward priority 0; policy drop;
        {note}
        ct state established,related accept
        iifname "lan" accept
        ct status dnat accept
        meta l4proto ipv6-icmp accept
        iifname "wan" jump miniupnpd
    }}
    chain prerouting {{
        type nat hook prerouting priority -100;
        iifname "wan" jump prerouting_miniupnpd
        {let_in}
    }}
    chain postrouting {{
        type nat hook postrouting priority 100;
        oifname "wan" jump postrouting_miniupnpd
        {translate}
    }}
}}
"#
    )
}

/// A provider that shares its one public address among those whom it gave an address of 100.64.0.0/10; the others, who have
/// public ones, it only routes.
pub(crate) const PROVIDER: &str = r#"
table ip provider {
    chain forward {
        type filter hook forward priority 0; policy accept;
        iifname "uplink" ip daddr 100.64.0.0/10 ct state new drop
    }
    chain input {
        type filter hook input priority 0; policy drop;
        meta l4proto icmp accept
        iifname != "uplink" accept
        ct state established,related accept
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        oifname "uplink" ip saddr 100.64.0.0/10 masquerade
    }
}
"#;
