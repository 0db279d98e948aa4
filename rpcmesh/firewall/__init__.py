"""Firewall rules: one policy, rendered for pf and for nftables. Nothing here loads them or needs root."""
