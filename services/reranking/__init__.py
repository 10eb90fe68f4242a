"""Whether, how deep and with which cross-encoder to rerank; today every answer says `unavailable`."""
