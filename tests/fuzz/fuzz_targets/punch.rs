//! Two peers and a relay read what they tell each other to find a path.

#![no_main]

iicp_fuzz::target!("punch");
