"""All tests. unit/ mirrors the tree, contract/ starts nothing, integration/, e2e/ and fault/ run real parts."""
