<?xml version="1.0"?>
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output method="xml" indent="yes"/>
  <xsl:key name="group" match="item" use="@group"/>
  <xsl:template match="/shop">
    <report>
      <xsl:for-each select="item[generate-id() = generate-id(key('group', @group)[1])]">
        <xsl:sort select="@group"/>
        <group name="{@group}" count="{count(key('group', @group))}" sum="{sum(key('group', @group)/price)}">
          <xsl:for-each select="key('group', @group)">
            <xsl:sort select="price" data-type="number" order="descending"/>
            <line><xsl:value-of select="concat(name, ' ', tag, ': ', price)"/></line>
          </xsl:for-each>
        </group>
      </xsl:for-each>
    </report>
  </xsl:template>
</xsl:stylesheet>
