"""Both legs at the pinned version (search), one order of them (fusion), how sure it is (uncertainty)."""
