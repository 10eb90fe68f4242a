"""What happens to one question. Imports `tenants` and nothing above.

Read in this order: contracts, query (THE LINE), then the steps as they come in it: gateway, embedding,
retrieval, reranking, evidence, generation, audit.
"""
