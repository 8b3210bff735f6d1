//! What the connections to all endpoints share.

use super::address_policy::AddressPolicy;
use super::tls::Authorities;

/// What the connections to all endpoints share. Cheap to clone.
#[derive(Clone)]
pub(in crate::relay) struct Network {
    /// The denied addresses.
    pub(in crate::relay) policy: AddressPolicy,
    /// The trusted certificate authorities.
    pub(in crate::relay) authorities: Authorities,
}
