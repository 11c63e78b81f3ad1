//! How a cell finds the hypervisor: CPUID leaves.
//!
//! A non-root cell sees [`HYPERVISOR_PRESENT`] and the signature leaf; the root cell sees the machine as it was.

/// CPUID leaf 1, ECX: a hypervisor is present. Set for non-root cells only.
pub const HYPERVISOR_PRESENT: u32 = 1 << 31;
/// CPUID leaf 1, ECX: VMX. Hidden from non-root cells.
pub const FEATURE_VMX: u32 = 1 << 5;
/// CPUID leaf 0x8000_0001, ECX: SVM. Hidden from non-root cells.
pub const FEATURE_SVM: u32 = 1 << 2;

/// Leaf with the highest hypervisor leaf in EAX and [`SIGNATURE`] in EBX, ECX, EDX.
pub const LEAF_SIGNATURE: u32 = 0x4000_0000;
/// Leaf with the feature words; all zero.
pub const LEAF_FEATURES: u32 = 0x4000_0001;

/// "Jailhouse\0\0\0", as EBX, ECX, EDX of [`LEAF_SIGNATURE`].
pub const SIGNATURE: [u32; 3] =
    [u32::from_le_bytes(*b"Jail"), u32::from_le_bytes(*b"hous"), u32::from_le_bytes(*b"e\0\0\0")];

/// What a non-root cell reads in a hypervisor leaf as EAX, EBX, ECX, EDX; `None` for a leaf that is not ours.
#[must_use]
pub const fn leaf(number: u32) -> Option<[u32; 4]> {
    match number {
        LEAF_SIGNATURE => Some([LEAF_FEATURES, SIGNATURE[0], SIGNATURE[1], SIGNATURE[2]]),
        LEAF_FEATURES => Some([0; 4]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_reads_as_text() {
        let [eax, ebx, ecx, edx] = leaf(LEAF_SIGNATURE).unwrap();
        assert_eq!(eax, 0x4000_0001);
        let text: Vec<u8> = [ebx, ecx, edx].iter().flat_map(|r| r.to_le_bytes()).collect();
        assert_eq!(&text, b"Jailhouse\0\0\0");
        assert_eq!(leaf(LEAF_FEATURES), Some([0; 4]));
        assert_eq!(leaf(0x4000_0002), None);
    }
}
