//! The network settings of all endpoints.

use super::address_policy::AddressPolicy;
use super::outbound_proxy::OutboundProxy;
use crate::outbound::Authorities;

/// The network settings of all endpoints. Cheap to clone.
#[derive(Clone)]
pub(in crate::relay) struct Network {
    /// The denied addresses.
    pub(in crate::relay) policy: AddressPolicy,
    /// The trusted certificate authorities.
    pub(in crate::relay) authorities: Authorities,
    /// The proxy for HTTP endpoints and token servers.
    pub(in crate::relay) proxy: Option<OutboundProxy>,
}
